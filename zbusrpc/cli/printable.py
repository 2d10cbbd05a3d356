"""Printable text: what others wrote, as it may stand on a terminal, which obeys some characters and shows others not.

A producer, a service or a broker may put escape sequences into whatever it writes: names, bodies, results, errors. They
could colour, hide or rewrite what stands above, set the title, or have the terminal type. On a terminal they are
therefore shown as escapes. Into files and pipes data goes as it is, and so does what was asked for raw. Pure.
"""

import json
import unicodedata
from typing import Final

_JOINERS: Final = {"\u200c", "\u200d"}
"""Parts of words and of pictures."""
_UNSAFE: Final = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_KEPT_IN_LINES: Final = {"\n", "\t"}


def printable(text: str) -> str:
    """Return text on one line, with what a terminal would obey or not show as escapes."""
    if text.isprintable():
        return text
    return "".join(letter.encode("unicode_escape").decode() if _is_unsafe(letter) else letter for letter in text)


def printable_lines(text: str) -> str:
    """Return text of several lines likewise; escapes are those of JSON, so that JSON stays what it is."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(
        json.dumps(letter)[1:-1] if _is_unsafe(letter) and letter not in _KEPT_IN_LINES else letter for letter in text
    )


def _is_unsafe(letter: str) -> bool:
    return unicodedata.category(letter) in _UNSAFE and letter not in _JOINERS
