"""The `EmailSender` that sends emails through an SMTP server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import aiosmtplib

from diptych import Calling, Effect, EffectFailed
from shop.email import answer_of, email_of
from shop.settings import ShopSettings
from shop.v1.effects_pb2 import SendEmailRequest, SendEmailResponse

_PORTS = {"smtp": 25, "smtps": 465}
_SECONDS = 30.0
"""Limit of one exchange with the server."""


@asynccontextmanager
async def connect(settings: ShopSettings) -> AsyncIterator[Effect[SendEmailRequest, SendEmailResponse]]:
    """Yield the effect. Each email has its own connection, so that an unreachable server is noticed at once."""
    assert settings.smtp_url is not None
    url = urlsplit(settings.smtp_url)

    async def send(request: SendEmailRequest, calling: Calling) -> SendEmailResponse:
        email = email_of(request, calling, sender=settings.email_from)
        try:
            await aiosmtplib.send(
                email,
                sender=settings.email_from,
                recipients=[request.to],  # Not read from the headers: the library would decode the address.
                hostname=url.hostname,
                port=url.port or _PORTS[url.scheme],
                username=unquote(url.username) if url.username else None,
                password=unquote(url.password) if url.password else None,
                use_tls=url.scheme == "smtps",
                timeout=_SECONDS,
            )
        except aiosmtplib.SMTPRecipientsRefused as refused:
            refusals = refused.recipients
            if all(_for_good(each.code) for each in refusals):
                raise _failed("RECIPIENT_REFUSED", email, refusals[0].message) from refused
            raise
        except (aiosmtplib.SMTPSenderRefused, aiosmtplib.SMTPDataError) as refused:
            if _for_good(refused.code):
                raise _failed("EMAIL_REFUSED", email, refused.message) from refused
            raise
        return SendEmailResponse(message_id=email["Message-ID"])

    yield send


def _for_good(code: int) -> bool:
    """Return True if the server refuses the same email again (RFC 5321, section 4.2.1)."""
    return 500 <= code < 600


def _failed(reason: str, email: EmailMessage, answer: str) -> EffectFailed:
    return EffectFailed(reason, f"The mail server refused the email to {email['To']}: {answer_of(answer)}")
