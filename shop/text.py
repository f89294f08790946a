"""Texts that people type, in one form. Keyboards and systems write an `é` as one code point or as two, and add spaces.

Names are recorded in Unicode form NFC, without white space at their ends. Events of earlier versions have names as they
were typed, so comparisons put both sides into one form.
"""

from collections.abc import Iterable
from typing import TypeVar
from unicodedata import normalize

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


def typed(text: str) -> str:
    """Return a typed text in the form in which it is recorded: NFC, without white space at its ends."""
    return text.strip() if text.isascii() else normalize("NFC", text).strip()


def comparable(text: str) -> str:
    """Return the form in which texts are equal that differ only in case, composition or white space at their ends."""
    if text.isascii():
        return text.strip().lower()
    # The Unicode standard's canonical caseless match (D145), in the shorter form NFC.
    folded = normalize("NFD", normalize("NFD", text).casefold())
    return normalize("NFC", folded).strip()


def with_typed(message: M, fields: Iterable[str]) -> M:
    """Return a copy of a message with these text fields as they are recorded."""
    copy = type(message)()
    copy.CopyFrom(message)
    for field in fields:
        setattr(copy, field, typed(getattr(copy, field)))
    return copy
