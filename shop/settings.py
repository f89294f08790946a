"""Settings of the shop from its environment, `SHOP_*`: the destinations of emails and payments."""

from __future__ import annotations

import functools
from datetime import timedelta

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from diptych.domain.errors import DomainError

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
ADDRESS = rf"^{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*$"
"""Pattern of an email address that mail servers take without quoting."""


class ShopSettings(BaseSettings):
    """Settings, read once when they are first needed. A wrong value fails the start of the command server."""

    model_config = SettingsConfigDict(env_prefix="SHOP_", env_ignore_empty=True, frozen=True, extra="ignore")

    smtp_url: str | None = Field(
        default=None,
        pattern=r"^smtps?://[^/?#]+$",
        description="SMTP server for emails: smtp://[USER:PASSWORD@]HOST[:PORT], which is encrypted if the server "
        "can (STARTTLS), or smtps://...; user and password percent-encoded. Unset: emails go into the maildir.",
    )
    maildir: str | None = Field(
        default=None,
        description="Maildir for emails; it is created if it is missing. "
        "Unset: diptych/shop/mail in the user's data folder.",
    )
    email_from: str = Field(default="shop@example.com", pattern=ADDRESS, description="Sender of emails.")
    payments: str | None = Field(
        default=None,
        pattern=r"^.+:\d{1,5}$",
        description="HOST:PORT of the provider of payments, such as `python -m shop.payments`. Unset: every payment "
        "is accepted without a provider.",
    )
    payment_seconds: float = Field(
        default=30.0, gt=0, le=86_400, description="Time without an answer after which a payment is voided, in seconds."
    )

    @property
    def payment_limit(self) -> timedelta:
        """Return `payment_seconds` as a duration."""
        return timedelta(seconds=self.payment_seconds)


@functools.cache
def settings() -> ShopSettings:
    """Return the settings of this process. Raise `DomainError` for a wrong value."""
    try:
        return ShopSettings()
    except ValidationError as error:
        wrong = [f"SHOP_{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors()]
        raise DomainError("; ".join(wrong)) from None
