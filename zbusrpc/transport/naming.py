"""Naming on the wire: one spelling for each name, so that two that look the same are the same.

Unicode writes many letters in two ways: `é` as one letter, or as `e` and an accent. Names are compared, kept and told
in normalization form C (Unicode Standard Annex 15), whichever way they were written; case is kept. Pure.
"""

from unicodedata import normalize


def one_spelling(name: str) -> str:
    """Return a name in the spelling that is kept and compared."""
    return name if name.isascii() else normalize("NFC", name)


def one_spelling_bytes(name: bytes) -> bytes:
    """Return a name of a frame in the spelling that is kept and compared; what is no text stays as it is."""
    if name.isascii():
        return name
    try:
        return normalize("NFC", name.decode()).encode()
    except UnicodeDecodeError:
        return name
