"""The token file: what it says, what is wrong with it in one line, and how it is changed."""

import os
import re
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from zbusrpc.broker.access import token_file
from zbusrpc.broker.access.rights import Operation, digest_of
from zbusrpc.broker.access.token_file import RuleEntry, add_token, is_readable_by_others, read_tokens, remove_token
from zbusrpc.errors import ConfigError

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
PRODUCE = RuleEntry.model_validate({"operations": ["produce"], "topics": ["orders"]})
HASH = f"sha256:{digest_of('s3cret').hex()}"
TOKEN = f"""[[token]]
name = "web"
hash = "{HASH}"
rules = [{{ operations = ["produce"], topics = ["orders.*"] }}]
"""
BY_HAND = f"""# our tokens

# the shop; ask Ann
[[token]]
name = "shop"   # [[token]]
hash = "{HASH}"
rules = [
    {{ operations = ["produce"], topics = ["orders"] }},  # no more than that
    {{ operations = ["*"], topics = [
        "own.*",
    ] }},
]

# the cron job
[[token]]
hash = "sha256:{"0" * 64}"
name = 'cron'
[[token.rules]]
operations = ["consume"]
topics = ["orders"]
groups = ["cron"]

[ anonymous ]  # everybody
rules = []
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the file is, or will be."""
    return tmp_path / "tokens.toml"


def write(path: Path, text: str, mode: int = 0o600) -> str:
    """Write a token file, and return its name."""
    path.write_text(text)
    path.chmod(mode)
    return str(path)


# -- reading -------------------------------------------------------------------------------------------------


def test_file_says_who_may_do_what(path: Path) -> None:
    """Tokens have the rights of all their rules, and everybody those of [anonymous]."""
    text = BY_HAND.replace("rules = []", 'rules = [{ operations = ["query"], topics = ["public.*"] }]')

    access = read_tokens(write(path, text)).access()

    shop = access.rights_of("s3cret")
    assert shop is not None
    assert shop.name == "shop"
    assert shop.allows(Operation.PRODUCE, "orders")
    assert not shop.allows(Operation.CONSUME, "orders", "shop")
    assert shop.allows(Operation.REMOVE, "own.topic")
    assert not shop.allows(Operation.ADMIN)
    assert access.anonymous.allows(Operation.QUERY, "public.news")
    assert not access.anonymous.allows(Operation.QUERY, "orders")


def test_empty_file_lets_nobody_in(path: Path) -> None:
    """A file without tokens is no error, and allows nothing to anybody."""
    access = read_tokens(write(path, "")).access()

    assert not any(access.anonymous.allows(operation) for operation in Operation)
    assert access.rights_of("s3cret") is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"produce"', '"prodce"', "token web, rules[0].operations: 'prodce' is no operation; did you mean produce?"),
        ('"produce"', "7", "token web, rules[0].operations: 7 is no operation"),
        ("operations", "operatons", "token web, rules[0].operat"),
        ("orders.*", "or*ders", "token web, rules[0].topics[0]: 'or*ders': * stands at the end of a name only"),
        ('["orders.*"]', '"orders"', "token web, rules[0].topics: input should be a valid tuple"),
        (', topics = ["orders.*"]', "", "token web, rules[0].topics: field required"),
        ('name = "web"\n', "", "a token without a name, name: field required"),
        ('"web"', '"we b"', "token we b, name: string should match"),
        ('"web"', '"anonymous"', "a token may not be called anonymous"),
        (HASH, "s3cret", "token web, hash: string should match"),
        ("rules = ", "rule = ", "token web, rule"),
        ("[[token]]", "[[tokens]]", "tokens: there is no such field; did you mean token?"),
        ("[[token]]", "[token]", "token: input should be a valid tuple"),
        ("[[token]]", "[[token]", "tokens.toml: "),
        ("rules", TOKEN + "rules", "tokens.toml: "),
    ],
)
def test_mistake_is_one_line_that_names_it(path: Path, old: str, new: str, words: str) -> None:
    """A mistake is told with file, entry and field; what stands in a field that may hold a secret is not shown."""
    write(path, TOKEN.replace(old, new, 1))

    with pytest.raises(ConfigError) as caught:
        read_tokens(str(path))

    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert words in line
    assert "\n" not in line
    assert "s3cret" not in line


def test_two_tokens_of_one_name_are_refused(path: Path) -> None:
    """A name stands for one token: else `rm` would leave one in force."""
    write(path, TOKEN + TOKEN)

    with pytest.raises(ConfigError, match="there are two tokens web"):
        read_tokens(str(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no token file .*; make it with: zbusrpc token add NAME --tokens "),
        (lambda path: path.mkdir(), ": is a directory"),
        (lambda path: path.write_bytes(b"\xff"), ": this is no text in UTF-8"),
    ],
)
def test_unreadable_file_is_one_line(path: Path, make: object, words: str) -> None:
    """What is no file, or no text, is told."""
    assert callable(make)
    make(path)
    if path.is_file():
        path.chmod(0o600)

    with pytest.raises(ConfigError, match=words):
        read_tokens(str(path))


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    """Who may write the file may let himself in: the line says how to change that."""
    write(path, TOKEN, mode)

    with pytest.raises(ConfigError, match=rf"chmod 600 {path}"):
        read_tokens(str(path))


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_file_that_others_may_read_is_worth_a_warning(path: Path) -> None:
    """Names and rights are no secrets, and hashes of random bytes give nothing away."""
    assert is_readable_by_others(write(path, TOKEN, 0o644))
    assert not is_readable_by_others(write(path, TOKEN, 0o640))
    assert read_tokens(str(path)).token[0].name == "web"


# -- adding --------------------------------------------------------------------------------------------------


def test_added_token_is_known_by_its_secret_only(path: Path) -> None:
    """The secret has 32 random bytes and stands nowhere in the file, which only its owner may read."""
    first, second = (add_token(str(path), name, PRODUCE, NOW) for name in ("one", "two"))

    access = read_tokens(str(path)).access()
    rights = access.rights_of(first)
    assert rights is not None
    assert rights.name == "one"
    assert rights.allows(Operation.PRODUCE, "orders")
    assert first != second
    assert re.fullmatch(r"zb_[A-Za-z0-9_-]{43}", first)
    assert first not in path.read_text()
    assert read_tokens(str(path)).token[0].created == NOW
    assert os.name == "nt" or stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_added_token_leaves_the_rest_as_it_is(path: Path) -> None:
    """What people wrote, comments and all, is the beginning of the new text."""
    write(path, BY_HAND)

    add_token(str(path), "new", PRODUCE, NOW)

    assert path.read_text().startswith(BY_HAND)
    assert [one.name for one in read_tokens(str(path)).token] == ["shop", "cron", "new"]


@pytest.mark.parametrize(
    ("text", "words"),
    [(TOKEN, "there is a token web already"), ("[[token]", "tokens.toml: "), ("token = []\n", "tokens.toml: ")],
)
def test_what_cannot_be_added_to_is_left_alone(path: Path, text: str, words: str) -> None:
    """A second token of a name, and a file that cannot be added to, are refused and stay as they are."""
    write(path, text)

    with pytest.raises(ConfigError, match=words):
        add_token(str(path), "web", PRODUCE, NOW)

    assert path.read_text() == text


def test_tokens_added_at_once_are_all_there(path: Path) -> None:
    """Who changes the file waits for others who do."""
    threads = [threading.Thread(target=add_token, args=(str(path), f"t{n}", PRODUCE, NOW)) for n in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(one.name for one in read_tokens(str(path)).token) == [f"t{n}" for n in range(8)]


def test_link_and_mode_of_the_file_stay(path: Path, tmp_path: Path) -> None:
    """A file behind a link is changed where it is, and keeps the mode that somebody gave it."""
    target = tmp_path / "elsewhere.toml"
    write(target, TOKEN, 0o640)
    path.symlink_to(target)

    add_token(str(path), "new", PRODUCE, NOW)

    assert path.is_symlink()
    assert len(read_tokens(str(target)).token) == 2
    assert os.name == "nt" or stat.S_IMODE(target.stat().st_mode) == 0o640


def test_failed_change_leaves_the_file_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk does not take the copy, the file is as it was and no copy is left."""
    write(path, TOKEN)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_file.os, "fsync", fail)

    with pytest.raises(ConfigError, match="no space left on device"):
        add_token(str(path), "new", PRODUCE, NOW)

    assert path.read_text() == TOKEN
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


# -- removing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gone", "kept"),
    [
        ("shop", ("the shop; ask Ann", "own.*"), ("# our tokens\n\n# the cron job\n[[token]]", "[ anonymous ]")),
        ("cron", ("cron", "[[token.rules]]"), ("# the shop; ask Ann", "]\n\n[ anonymous ]  # everybody\nrules = []\n")),
    ],
)
def test_removed_token_takes_its_own_text_only(
    path: Path, name: str, gone: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    """An entry goes with its comment and its sub-tables; every other line stays."""
    write(path, BY_HAND)

    remove_token(str(path), name)

    text = path.read_text()
    assert not [words for words in gone if words in text]
    assert all(words in text for words in kept)
    assert [one.name for one in read_tokens(str(path)).token] == [{"shop": "cron", "cron": "shop"}[name]]


def test_tokens_come_and_go(path: Path) -> None:
    """What was added can be removed, in any order, until nothing is left."""
    for name in "abc":
        add_token(str(path), name, PRODUCE, NOW)

    for name, left in (("b", ["a", "c"]), ("a", ["c"]), ("c", [])):
        remove_token(str(path), name)
        assert [one.name for one in read_tokens(str(path)).token] == left

    assert path.read_text() == ""


def test_unknown_token_cannot_be_removed(path: Path) -> None:
    """The line names the nearest."""
    write(path, TOKEN)

    with pytest.raises(ConfigError, match=r"there is no token wev; did you mean web\?"):
        remove_token(str(path), "wev")


def test_token_in_another_form_is_left_to_people(path: Path) -> None:
    """TOML can say the same in ways that are not looked for: then nothing is changed."""
    text = f'token = [{{ name = "web", hash = "{HASH}", rules = [] }}]\n'
    write(path, text)

    with pytest.raises(ConfigError, match="only a person can remove"):
        remove_token(str(path), "web")

    assert path.read_text() == text


def test_text_that_looks_like_an_entry_is_none(path: Path) -> None:
    """A line within a string is not taken for the head of an entry: better nothing is done than the wrong thing."""
    rule = '{ operations = ["""query""", """\n[[token]]\n"""], topics = [] }'
    text = f'[[token]]\nname = "a"\nhash = "{HASH}"\nrules = [{rule}]\n'
    write(path, text)

    with pytest.raises(ConfigError):
        remove_token(str(path), "a")

    assert path.read_text() == text
