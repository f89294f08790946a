"""Emails to a real SMTP server and into a maildir: sent once, or rejected."""

from __future__ import annotations

import asyncio
import mailbox
from collections.abc import Iterator
from email import message_from_bytes
from email import policy as policies
from email.header import decode_header, make_header
from pathlib import Path

import pytest

from diptych import Calling, EffectFailed
from shop import email_maildir, email_smtp
from shop.email import answer_of, email_of
from shop.settings import ShopSettings
from shop.v1.effects_pb2 import SendEmailRequest
from tests.support.mail_server import MailServer

WELCOME = SendEmailRequest(to="ada@example.com", subject="Welcome, Ádá", text="Dear Ádá,\n\nhello.\n")


def calling(key: str) -> Calling:
    return Calling(key, 1, "correlated", "")


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer() as running:
        yield running


async def test_an_email_has_a_message_id_made_from_its_key(server: MailServer) -> None:
    async with email_smtp.connect(ShopSettings(smtp_url=server.url, email_from="shop@diptych.test")) as send:
        first = await send(WELCOME, calling("k1"))
        again = await send(WELCOME, calling("k1"))
        other = await send(WELCOME, calling("k2"))
    assert first.message_id == again.message_id != other.message_id
    assert first.message_id.endswith("@diptych.test>")
    assert [mail.id for mail in server.mails] == [first.message_id, again.message_id, other.message_id]
    mail = server.mails[0]
    assert (mail.to, mail.email["From"], mail.email["X-Correlation-ID"]) == (
        "ada@example.com",
        "shop@diptych.test",
        "correlated",
    )
    content = mail.email.get_payload(decode=True)
    assert isinstance(content, bytes)
    assert content.decode().replace("\r\n", "\n") == WELCOME.text


async def test_a_rejected_recipient_fails_permanently(server: MailServer) -> None:
    async with email_smtp.connect(ShopSettings(smtp_url=server.url)) as send:
        with pytest.raises(EffectFailed, match="no such mailbox") as failed:
            await send(SendEmailRequest(to="nobody@example.com", subject="s", text="t"), calling("k1"))
    assert failed.value.reason == "RECIPIENT_REFUSED"


@pytest.mark.parametrize(
    ("answer", "reason"), [("554 spam", "EMAIL_REFUSED"), ("599 no", "EMAIL_REFUSED"), ("499 x", "")]
)
async def test_an_answer_of_500_to_599_to_the_text_fails_permanently(
    answer: str, reason: str, server: MailServer
) -> None:
    server.answer = answer
    async with email_smtp.connect(ShopSettings(smtp_url=server.url)) as send:
        with pytest.raises(Exception, match=answer.partition(" ")[2]) as failed:
            await send(WELCOME, calling("k1"))
    assert (failed.value.reason if isinstance(failed.value, EffectFailed) else "") == reason


async def test_a_user_and_password_of_the_url_are_used_as_written(server: MailServer) -> None:
    url = server.url.replace("smtp://", "smtp://Ada%40X:Pass%2FWord@")
    async with email_smtp.connect(ShopSettings(smtp_url=url)) as send:
        await send(WELCOME, calling("k1"))
    assert server.logins == [(b"Ada@X", b"Pass/Word")]


async def test_a_busy_or_absent_mail_server_is_tried_again(server: MailServer) -> None:
    server.busy = 1
    async with email_smtp.connect(ShopSettings(smtp_url=server.url)) as send:
        with pytest.raises(Exception, match="later") as busy:
            await send(WELCOME, calling("k1"))
        assert not isinstance(busy.value, EffectFailed)
        await send(WELCOME, calling("k1"))
    assert len(server.mails) == 1
    async with email_smtp.connect(ShopSettings(smtp_url="smtp://127.0.0.1:1")) as send:
        with pytest.raises(Exception, match="connecting") as away:
            await send(WELCOME, calling("k1"))
        assert not isinstance(away.value, EffectFailed)


ODD_ADDRESSES = ("=?utf-8?q??=@example.com", "=?utf-8?b?!?=@example.com", "=?utf-8?q?victim?=@example.com")
INJECTIONS = ("a@x.y\r\nBcc: b@x.y", "a@x.y\n", "a@x.y, b@x.y", "<b@x.y>", "a b@x.y", "á@x.y", "a@x.y> SIZE=1", "a", "")


@pytest.mark.parametrize("address", [*ODD_ADDRESSES, *INJECTIONS])
@pytest.mark.parametrize("adapter", ["smtp", "maildir"])
async def test_bug_an_address_with_an_encoded_word_stuck_or_reached_another_mailbox(
    address: str, adapter: str, server: MailServer, tmp_path: Path
) -> None:
    connect = email_smtp.connect if adapter == "smtp" else email_maildir.connect
    async with connect(ShopSettings(smtp_url=server.url, maildir=str(tmp_path / "mail"))) as send:
        with pytest.raises(EffectFailed) as failed:
            await send(SendEmailRequest(to=address, subject="s", text="t"), calling("k1"))
    assert failed.value.reason == "RECIPIENT_REFUSED"
    assert not server.mails
    assert not (tmp_path / "mail").exists()


@pytest.mark.parametrize("address", ["a.b.=c=d?.!#$%&'*+/^_`{|}~-@x.y", "A" * 64 + "@x", "root@localhost"])
async def test_the_envelope_has_the_address_as_registered(address: str, server: MailServer) -> None:
    async with email_smtp.connect(ShopSettings(smtp_url=server.url)) as send:
        await send(SendEmailRequest(to=address, subject="s", text="t"), calling("k1"))
    assert [(mail.to, mail.email["To"]) for mail in server.mails] == [(address, address)]


@pytest.mark.parametrize(
    "text", ["a\r\nBcc: b@x.y", "a\r\n\r\nbody", "=?utf-8?b?!?=", "é" * 128, "x" * 3_000, "\0\x85"]
)
@pytest.mark.parametrize("policy", [policies.SMTP, policies.default, policies.SMTP.clone(cte_type="7bit")])
def test_bug_a_correlation_id_with_a_line_break_stopped_an_email(text: str, policy: policies.EmailPolicy) -> None:
    email = email_of(
        SendEmailRequest(to="a@x.y", subject=text, text=text), Calling("k", 1, text, ""), sender="shop@x.y"
    )
    lines = email.as_bytes(policy=policy)
    read = message_from_bytes(lines)
    names = {"Message-ID", "Date", "From", "To", "Subject", "X-Correlation-ID"}
    assert set(read) == names | {"MIME-Version", "Content-Type", "Content-Transfer-Encoding"}
    assert max(len(line) for line in lines.splitlines()) < 998
    assert str(make_header(decode_header(read["X-Correlation-ID"]))).split() == text.split()


def test_an_answer_that_is_not_utf_8_becomes_one_line_of_valid_text() -> None:
    assert answer_of("no\r\nsuch " + b"mailb\xf6x".decode(errors="surrogateescape")) == "no such mailb?x"
    assert len(answer_of("x" * 9_000)) == 500


async def test_a_maildir_has_one_file_for_each_email(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "mail"
    async with email_maildir.connect(ShopSettings(maildir=str(folder))) as send:
        assert not folder.exists(), "it is made when there is something to write"
        first = await send(WELCOME, calling("k1"))
        assert await send(WELCOME, calling("k1")) == first
        (unread,) = (folder / "new").iterdir()
        unread.rename(folder / "cur" / f"{unread.name}:2,S")  # As a mail reader does.
        await send(WELCOME, calling("k1"))
        await send(WELCOME, calling("k2"))
    assert [len(list((folder / part).iterdir())) for part in ("cur", "new", "tmp")] == [1, 1, 0]
    kept = mailbox.Maildir(folder)
    mails = {str(mail["Message-ID"]): mail for mail in kept}
    assert len(mails) == 2
    read = message_from_bytes(mails[first.message_id].as_bytes())
    assert (read["To"], read["X-Correlation-ID"]) == ("ada@example.com", "correlated")


async def test_emails_written_at_once_are_each_whole(tmp_path: Path) -> None:
    texts = {f"k{number}": f"{number}" * 100_000 + "\n" for number in range(8)}
    async with email_maildir.connect(ShopSettings(maildir=str(tmp_path))) as send:
        await asyncio.gather(
            *(send(SendEmailRequest(to="a@x.y", subject=key, text=text), calling(key)) for key, text in texts.items())
        )
    mails = {mail["Subject"]: mail.get_payload(decode=True) for mail in mailbox.Maildir(tmp_path)}
    assert mails == {key: text.encode() for key, text in texts.items()}


async def test_a_half_written_email_is_ignored_after_a_crash(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "half").write_text("Subj")
    async with email_maildir.connect(ShopSettings(maildir=str(tmp_path))) as send:
        await send(WELCOME, calling("k1"))
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_emails_go_to_the_users_data_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert email_maildir.user_data() == tmp_path
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert email_maildir.user_data() == tmp_path / ".local" / "share"
