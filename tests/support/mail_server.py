"""Real mail server for tests. It keeps accepted emails and refuses some, as the test demands."""

from __future__ import annotations

from email import message_from_bytes
from email.message import Message as Email
from typing import Any, NamedTuple

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from diptych.cli.ports import Reservation


class Mail(NamedTuple):
    """An accepted email."""

    to: str
    email: Email

    @property
    def id(self) -> str:
        """Message id, the same for each copy of an email."""
        return str(self.email["Message-ID"])

    @property
    def subject(self) -> str:
        """Subject line."""
        return str(self.email["Subject"])


class MailServer:
    """SMTP server on a port of its own. It rejects addresses that begin with `nobody` permanently."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        """Emails in order of arrival; one that was delivered twice is here twice."""
        self.busy = 0
        """Number of emails to refuse temporarily."""
        self.answer = ""
        """Answer to the text of every email. Empty: as `busy` says."""
        self.logins: list[tuple[bytes, bytes]] = []
        """Users and passwords in order of their logins; all are accepted."""
        self._reservation = Reservation("127.0.0.1:0")
        host, _, port = self._reservation.address.rpartition(":")
        self._controller = Controller(self, hostname=host, port=int(port), ready_timeout=60, **self._login_options())
        self.url = f"smtp://{self._reservation.address}"
        """URL of the server, for the shop's settings."""

    def _login_options(self) -> dict[str, Any]:
        def accept(server: Any, session: Any, envelope: Any, mechanism: str, data: LoginPassword) -> AuthResult:
            self.logins.append((data.login, data.password))
            return AuthResult(success=True)

        return {"authenticator": accept, "auth_require_tls": False}

    def __enter__(self) -> MailServer:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()
        self._reservation.close()

    def to(self, address: str) -> dict[str, Mail]:
        """Return the emails to an address, each once, by subject."""
        found = {mail.id: mail for mail in self.mails if mail.to == address}
        assert len({mail.subject for mail in found.values()}) == len(found), "one email has two ids"
        return {mail.subject: mail for mail in found.values()}

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        """Accept or reject a recipient."""
        if address.startswith("nobody"):
            return "550 there is no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """Accept an email, or refuse it temporarily."""
        if self.answer:
            return self.answer
        if self.busy:
            self.busy -= 1
            return "451 try again later"
        self.mails += [Mail(address, message_from_bytes(envelope.content)) for address in envelope.rcpt_tos]
        return "250 OK"
