"""The default `EmailSender`: writes emails to the files of a maildir, which every mail reader can open. A repeat writes
nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from diptych import Calling, Effect
from shop.email import email_of, id_of
from shop.settings import ShopSettings
from shop.v1.effects_pb2 import SendEmailRequest, SendEmailResponse


@asynccontextmanager
async def connect(settings: ShopSettings) -> AsyncIterator[Effect[SendEmailRequest, SendEmailResponse]]:
    """Open the maildir of the settings. The folder is created with the first email."""
    maildir = Path(settings.maildir) if settings.maildir else user_data() / "diptych" / "shop" / "mail"

    async def send(request: SendEmailRequest, calling: Calling) -> SendEmailResponse:
        email = email_of(request, calling, sender=settings.email_from)
        await asyncio.to_thread(write, maildir, id_of(calling.key), email.as_bytes())
        return SendEmailResponse(message_id=email["Message-ID"])

    yield send


def user_data() -> Path:
    """Return the folder for a user's data by the XDG convention."""
    chosen = os.environ.get("XDG_DATA_HOME", "")
    return Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".local" / "share"


def write(maildir: Path, name: str, content: bytes) -> None:
    """Add an email under a name, unless the maildir has one with that name, read or unread."""
    for folder in ("tmp", "new", "cur"):
        (maildir / folder).mkdir(parents=True, exist_ok=True)
    delivered = maildir / "new" / name
    # A mail reader moves emails that it has shown, and adds flags to their names.
    if delivered.exists() or any((maildir / "cur").glob(f"{name}*")):
        return
    written = maildir / "tmp" / f"{name}.{os.getpid()}"
    with written.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    written.replace(delivered)
    _sync(delivered.parent)


def _sync(folder: Path) -> None:
    """Make the folder's entries as durable as its files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
