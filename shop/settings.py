"""What the shop is told by its environment, `SHOP_*`: where emails and payments go."""

from __future__ import annotations

import functools
from datetime import timedelta

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from diptych.domain.errors import DomainError


class ShopSettings(BaseSettings):
    """Read once, when first needed; a wrong value is named and ends the command server's start."""

    model_config = SettingsConfigDict(env_prefix="SHOP_", env_ignore_empty=True, frozen=True, extra="ignore")

    smtp_url: str | None = Field(
        default=None,
        pattern=r"^smtps?://[^/?#]+$",
        description="Where emails are handed in: smtp://[USER:PASSWORD@]HOST[:PORT], which is encrypted if the server "
        "can (STARTTLS), or smtps://...; user and password percent-encoded. Unset: they go into the maildir.",
    )
    maildir: str | None = Field(
        default=None, description="Maildir for emails; it is made. Unset: diptych/shop/mail among the user's own data."
    )
    email_from: str = Field(
        default="shop@example.com", pattern=r"^[^@\s]+@[^@\s]+$", description="Who emails are from."
    )
    payments: str | None = Field(
        default=None,
        pattern=r"^.+:\d{1,5}$",
        description="HOST:PORT of the provider of payments, such as `python -m shop.payments`. Unset: every payment "
        "is taken, by nobody.",
    )
    payment_seconds: float = Field(
        default=30.0, gt=0, le=86_400, description="How long a payment may be silent before it is voided, in seconds."
    )

    @property
    def payment_limit(self) -> timedelta:
        """`payment_seconds` as a duration."""
        return timedelta(seconds=self.payment_seconds)


@functools.cache
def settings() -> ShopSettings:
    """The settings of this process; raises `DomainError`."""
    try:
        return ShopSettings()
    except ValidationError as error:
        wrong = [f"SHOP_{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors()]
        raise DomainError("; ".join(wrong)) from None
