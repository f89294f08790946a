"""Emails: the same request under the same key is the same email."""

from __future__ import annotations

import hashlib
from email.message import EmailMessage
from email.utils import formatdate

from diptych import Calling
from shop.v1.effects_pb2 import SendEmailRequest


def id_of(key: str) -> str:
    """Return the name of an email for file names and headers, computed from its idempotency key."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def email_of(request: SendEmailRequest, calling: Calling, *, sender: str) -> EmailMessage:
    """Return the email. A recipient who gets it twice recognises the repeat by its Message-ID."""
    email = EmailMessage()
    email["Message-ID"] = f"<{id_of(calling.key)}@{sender.rpartition('@')[2]}>"
    email["Date"] = formatdate()
    email["From"] = sender
    email["To"] = request.to
    email["Subject"] = request.subject
    if calling.correlation_id:
        email["X-Correlation-ID"] = calling.correlation_id
    email.set_content(request.text)
    return email
