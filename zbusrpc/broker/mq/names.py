"""Names: what a topic and a consume group may be called, and which names the broker keeps for itself.

A name is for people, and it becomes part of a file's name: letters and digits of any script, with the marks that
belong to them, and `. _ - : @ + ~ #`. What nobody sees is no part of a name, so that no two look alike for it. A name
has one spelling (see `transport/naming.py`), which is seen to before it comes here.

    group `calls`      of a durable service: which of its calls are done
    group `letters`    of a topic of dead letters: which of them were dealt with
    group `auto-...`   of a consumer that names none; it comes back to it by this name
    topic `T.dlq`      the dead letters of T, unless T names another topic for them; no service is called as either

Pure: text in, text out, or one line that says what is wrong.
"""

import re
import unicodedata
from typing import Final

from zbusrpc.errors import Code, RpcError

NAME_BYTES_MAX: Final = 127
"""Room for what is derived from a name (`<topic>.dlq`) within the 255 bytes of a frame's topic."""
CALLS_GROUP: Final = "calls"
LETTERS_GROUP: Final = "letters"
AUTO_GROUP: Final = "auto-"
"""What the name of a group begins with that the broker names: `auto-*` in a rule allows such groups."""
_GIVEN: Final = re.compile(AUTO_GROUP + "[0-9a-f]{12}")
DEAD_LETTER_SUFFIX: Final = ".dlq"
RESERVED_GROUPS: Final = {
    CALLS_GROUP: "it keeps which calls of a durable service are done",
    LETTERS_GROUP: "it keeps which dead letters were dealt with",
}
"""Groups that only the broker makes and moves, where they have this meaning; elsewhere they are names like others."""
_PUNCTUATION: Final = frozenset("._-:@+~#")
_JOINERS: Final = frozenset("\u200c\u200d")
"""They are seen behind a virama alone, where scripts of India need them (RFC 5892, A.1 and A.2)."""
_VIRAMA: Final = 9
"""Combining class of the signs behind which a joiner may stand."""
_UNSEEN: Final = frozenset([
    *(0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0),
    *(*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)),
])  # fmt: skip
"""Letters and marks that nobody sees: fillers and variation selectors (Unicode's Default_Ignorable_Code_Point)."""
_RULE: Final = "use letters, digits and . _ - : @ + ~ #"


def check_name(what: str, name: object) -> str:
    """Return `name`, which is the name of a `what` ("topic", "group").

    Raises:
        RpcError: INVALID_ARGUMENT; the text names the value and the rule.
    """
    if not isinstance(name, str) or not name:
        raise _refusal(f"a {what} needs a name, not {name!r}")
    size = len(name.encode(errors="replace"))
    if size > NAME_BYTES_MAX:
        raise _refusal(f"{what} name of {size} bytes exceeds the limit of {NAME_BYTES_MAX} bytes")
    wrong = next((at for at in range(len(name)) if not _may_stand(name, at)), None)
    if wrong is not None:
        raise _refusal(f"{what} name {name!r} may not hold {_shown(name[wrong])}: {_RULE}")
    if not name.strip("."):
        raise _refusal(f"{what} name {name!r} consists of dots only")
    return name


def reserved(group: str) -> RpcError:
    """Return the error for a group that somebody wants to make, join, move or remove, and that is the broker's own."""
    return _refusal(f"group {group} is the broker's own ({RESERVED_GROUPS[group]}): use another name")


def is_given(group: str) -> bool:
    """Say whether the broker may have given a group this name, to a consumer that named none."""
    return _GIVEN.fullmatch(group) is not None


def check_choosable(group: str) -> None:
    """See that a group that there is not may be made by a name that somebody chose.

    Raises:
        RpcError: INVALID_ARGUMENT: such names are given by the broker.
    """
    if group.startswith(AUTO_GROUP):
        raise _refusal(
            f"group {group} cannot be made: the broker names groups {AUTO_GROUP}... itself, for consumers without one; "
            "use another name, or name no group"
        )


def decode_name(what: str, data: bytes) -> str:
    """Return a name that came as bytes.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    return check_name(what, data.decode(errors="replace"))


def slug(name: str) -> str:
    """Return what a file that belongs to `name` is called, on any system; different names may have the same."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name[:48])


def _may_stand(name: str, at: int) -> bool:
    """Say whether the letter at a place of a name may stand there: marks and joiners belong to what is before them."""
    letter = name[at]
    if letter.isascii():
        return letter.isalnum() or letter in _PUNCTUATION
    if ord(letter) in _UNSEEN:
        return False
    before = name[at - 1] if at else ""
    if letter in _JOINERS:
        return bool(before) and unicodedata.combining(before) == _VIRAMA
    if unicodedata.category(letter) in {"Mn", "Mc"}:
        return bool(before) and (before.isalnum() or before in _JOINERS or unicodedata.category(before) in {"Mn", "Mc"})
    return letter.isalnum()


def _shown(letter: str) -> str:
    """Return a letter as it can be read: one that joins others, or that nobody sees, by its number."""
    is_seen = ord(letter) not in _UNSEEN and not unicodedata.category(letter).startswith("M")
    return repr(letter) if is_seen else f"U+{ord(letter):04X}"


def _refusal(text: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, text)
