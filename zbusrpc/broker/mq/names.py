"""Names: what a topic and a consume group may be called.

A name is for people, and it becomes part of a file's name: letters and digits of any script and `. _ - : @ + ~ #`.

Pure: text in, text out, or one line that says what is wrong.
"""

from typing import Final

from zbusrpc.errors import Code, RpcError

NAME_BYTES_MAX: Final = 127
"""Room for what is derived from a name (`<topic>.dlq`) within the 255 bytes of a frame's topic."""
_PUNCTUATION: Final = frozenset("._-:@+~#")


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
    wrong = next((letter for letter in name if not (letter.isalnum() or letter in _PUNCTUATION)), None)
    if wrong is not None:
        raise _refusal(f"{what} name {name!r} may not hold {wrong!r}: use letters, digits and . _ - : @ + ~ #")
    if not name.strip("."):
        raise _refusal(f"{what} name {name!r} consists of dots only")
    return name


def decode_name(what: str, data: bytes) -> str:
    """Return a name that came as bytes.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    return check_name(what, data.decode(errors="replace"))


def slug(name: str) -> str:
    """Return what a file that belongs to `name` is called, on any system; different names may have the same."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name[:48])


def _refusal(text: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, text)
