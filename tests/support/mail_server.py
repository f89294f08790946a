"""A real mail server for tests, which keeps what it is given and refuses what it is told to."""

from __future__ import annotations

from email import message_from_bytes
from email.message import Message as Email
from typing import Any, NamedTuple

from aiosmtpd.controller import Controller

from diptych.cli.ports import Reservation


class Mail(NamedTuple):
    """An email that was handed in."""

    to: str
    email: Email

    @property
    def id(self) -> str:
        """By which whoever receives it twice knows that it is one."""
        return str(self.email["Message-ID"])

    @property
    def subject(self) -> str:
        """What it is about."""
        return str(self.email["Subject"])


class MailServer:
    """An SMTP server on a port of its own. Addresses that begin with `nobody` are refused for good."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        """In the order in which they came; one that was handed in twice is here twice."""
        self.busy = 0
        """How many emails are to be refused for the moment."""
        self._reservation = Reservation("127.0.0.1:0")
        host, _, port = self._reservation.address.rpartition(":")
        self._controller = Controller(self, hostname=host, port=int(port), ready_timeout=60)
        self.url = f"smtp://{self._reservation.address}"
        """Where it is, as the shop is told."""

    def __enter__(self) -> MailServer:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()
        self._reservation.close()

    def to(self, address: str) -> dict[str, Mail]:
        """The emails to an address, each once, by what they are about."""
        found = {mail.id: mail for mail in self.mails if mail.to == address}
        assert len({mail.subject for mail in found.values()}) == len(found), "one email has two ids"
        return {mail.subject: mail for mail in found.values()}

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        """Takes or refuses a recipient."""
        if address.startswith("nobody"):
            return "550 there is no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """Takes an email."""
        if self.busy:
            self.busy -= 1
            return "451 try again later"
        self.mails += [Mail(address, message_from_bytes(envelope.content)) for address in envelope.rcpt_tos]
        return "250 OK"
