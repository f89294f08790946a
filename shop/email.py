"""Emails: the same request under the same key is the same email. The address and the headers are written as given."""

from __future__ import annotations

import hashlib
import re
from email.header import Header
from email.message import EmailMessage
from email.policy import Policy
from email.utils import formatdate

from diptych import Calling, EffectFailed
from shop.settings import ADDRESS
from shop.v1.effects_pb2 import SendEmailRequest

_ENCODED_WORD = "=?"
"""Begin of an encoded word (RFC 2047), which programs that read headers replace by another text."""
_ADDRESS_MAX = 254
_ANSWER_MAX = 500
_LINE_MAX = 900
"""Greatest length of a header that is written in one line; RFC 5322 allows 998."""


class _Written(str):
    """Text of a header. The library parses a plain `str`, and changes or refuses text like an encoded word."""

    name: str

    def fold(self, *, policy: Policy) -> str:
        """Return the lines of the header. Other text than plain ASCII is written as encoded words."""
        plain = self.isascii() and self.isprintable() and _ENCODED_WORD not in self and len(self) <= _LINE_MAX
        text = str(self) if plain else Header(str(self), "utf-8", header_name=self.name).encode(linesep=policy.linesep)
        return f"{self.name}: {text}{policy.linesep}"


def id_of(key: str) -> str:
    """Return the name of an email for file names and headers, computed from its idempotency key."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def is_address(text: str) -> bool:
    """Return True if emails can be sent to exactly this address. The contract's rules for addresses are the same."""
    fits = re.fullmatch(ADDRESS, text) is not None and not text.endswith("\n")
    return fits and _ENCODED_WORD not in text and len(text) <= _ADDRESS_MAX


def email_of(request: SendEmailRequest, calling: Calling, *, sender: str) -> EmailMessage:
    """Return the email. A recipient who gets it twice recognises the repeat by its Message-ID.

    Raises:
        EffectFailed: No email can be sent to this address.
    """
    if not is_address(request.to):
        raise EffectFailed("RECIPIENT_REFUSED", f"No email can be sent to the address {request.to!a}.")
    email = EmailMessage()
    _write(email, "Message-ID", f"<{id_of(calling.key)}@{sender.rpartition('@')[2]}>")
    _write(email, "Date", formatdate())
    _write(email, "From", sender)
    _write(email, "To", request.to)
    _write(email, "Subject", request.subject)
    if calling.correlation_id:
        _write(email, "X-Correlation-ID", calling.correlation_id)
    email.set_content(request.text)
    return email


def answer_of(text: str) -> str:
    """Return a mail server's answer as one line of valid text, cut after 500 characters."""
    return " ".join(text[:_ANSWER_MAX].encode(errors="replace").decode().split())


def _write(email: EmailMessage, name: str, text: str) -> None:
    written = _Written(text)
    written.name = name
    email[name] = written
