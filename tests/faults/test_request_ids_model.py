"""The table of request ids against a dict, through the writer: repeats, reuse, refusals, batches and restarts.

The writer receives commands in any order and number; the model decides them one after the other. A repeat has its
first outcome, whatever version it expects by now. A request id of an accepted command is refused for any other
command; one of a refused command is free.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine
from typing import Any, NamedTuple, TypeVar

import pytest
from google.protobuf.message import Message
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from command_server.dispatch import Caller, Dispatcher
from command_server.event_tail import EventTail
from command_server.store.sqlite_store import SqliteEventStore
from command_server.submission import Submission
from command_server.writer import Writer
from diptych.domain import loading as domains
from diptych.server.settings import CommandServerSettings
from diptych.v1.commands_pb2 import CommandContext
from shop.v1.user_commands_pb2 import DeactivateUserRequest, RecordLoginRequest, RegisterUserRequest
from tests.faults.extent import EXAMPLES, memory_folder

T = TypeVar("T")

pytestmark = pytest.mark.timeout(120 + EXAMPLES)
SHOP = domains.load("shop")

users = st.sampled_from(["ada", "bob"])
ids = st.sampled_from(["", "r-1", "r-2", "r-3", "r-4"])
callers = st.sampled_from(["", "alice"])
kinds = st.sampled_from(["register", "login", "deactivate", "deactivate otherwise"])
expectations = st.sampled_from([None, None, None, 0, 1, 2, 3])


class Command(NamedTuple):
    """A command of a client."""

    kind: str
    user: str
    request_id: str
    caller: str
    expected: int | None

    def message(self) -> Message:
        context = CommandContext(request_id=self.request_id, expected_version=self.expected)
        match self.kind:
            case "register":
                email = f"{self.user}@example.com"
                return RegisterUserRequest(context=context, user_id=self.user, email=email)
            case "login":
                return RecordLoginRequest(context=context, user_id=self.user)
        return DeactivateUserRequest(context=context, user_id=self.user, reason=self.kind)


class Answer(NamedTuple):
    """An outcome: version and position, or the reason of a refusal."""

    reason: str = ""
    version: int = 0
    position: int = 0
    duplicate: bool = False


commands = st.builds(Command, kinds, users, ids, callers, expectations)


class RequestIds(RuleBasedStateMachine):
    """A writer on a store, and the outcomes that it must give."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = memory_folder()
        self.dispatcher = Dispatcher(SHOP)
        self.head = 0
        self.streams: dict[str, tuple[int, int, bool]] = {}
        """By user: the version, the last position, and True while it is active."""
        self.requests: dict[tuple[str, str], tuple[tuple[str, str], Answer]] = {}
        self.sent: list[Command] = []
        self.writing: asyncio.Task[None] | None = None

    def run_async(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize(batch=st.sampled_from([1, 2, 1000]), states=st.sampled_from([1, 1000]))
    def begin(self, batch: int, states: int) -> None:
        chosen = {"batch_commands_max": batch, "state_cache_entries": states, "snapshot_events": 10}
        self.settings = CommandServerSettings.model_validate(chosen)
        self.run_async(self._start())

    async def _start(self) -> None:
        self.store = SqliteEventStore(self.folder / "log.db", "model")
        await self.store.open()
        tail = EventTail(self.store, await self.store.head(), self.settings)
        self.writer = Writer(SHOP, self.store, self.settings, tail.publish)
        self.writing = asyncio.create_task(self.writer.run())

    async def _stop(self) -> None:
        if self.writing is not None:
            self.writer.close()
            await self.writing
            await self.store.close()

    @rule(some=st.lists(commands, min_size=1, max_size=8))
    def send(self, some: list[Command]) -> None:
        answers = self.run_async(self._send(some))
        for command, answer in zip(some, answers, strict=True):
            assert answer == self._expected(command), command
        self.sent += some

    @rule(data=st.data(), copies=st.integers(1, 3), expected=expectations)
    def send_again(self, data: st.DataObject, copies: int, expected: int | None) -> None:
        """Send a command again, perhaps with another expected version."""
        if self.sent:
            command = data.draw(st.sampled_from(self.sent))._replace(expected=expected)
            self.send([command] * copies)

    @rule()
    def restart(self) -> None:
        async def work() -> None:
            await self._stop()
            await self._start()

        self.run_async(work())

    async def _send(self, some: list[Command]) -> list[Answer]:
        done: list[asyncio.Future[None]] = []
        submissions: list[Submission] = []
        for command in some:
            message = command.message()
            method = SHOP.commands[message.DESCRIPTOR.full_name]
            submission = self.dispatcher.submission(method, message, Caller(command.caller))
            future = self.loop.create_future()
            submission.done = lambda future=future: future.set_result(None)  # type: ignore[misc]
            done.append(future)
            submissions.append(submission)
            self.writer.submit(submission)
        await asyncio.gather(*done)
        return [_answer(submission) for submission in submissions]

    def _expected(self, command: Command) -> Answer:
        key, digest = (command.caller, command.request_id), (command.kind, command.user)
        if command.request_id and key in self.requests:
            first, answer = self.requests[key]
            return answer._replace(duplicate=True) if first == digest else Answer("REQUEST_ID_REUSED")
        version, position, active = self.streams.get(command.user, (0, 0, False))
        if command.expected is not None and command.expected != version:
            return Answer("VERSION_CONFLICT")
        if command.kind == "register" and version:
            return Answer("USER_EXISTS")
        if command.kind != "register" and not version:
            return Answer("USER_NOT_FOUND")
        if command.kind == "login" and not active:
            return Answer("USER_DEACTIVATED")
        if active or command.kind == "register":  # Else it is deactivated already.
            self.head += 1
            version, position = version + 1, self.head
            self.streams[command.user] = (version, position, not command.kind.startswith("deactivate"))
        answer = Answer("", version, position)
        if command.request_id:
            self.requests[key] = digest, answer
        return answer

    def teardown(self) -> None:
        self.run_async(self._stop())
        self.loop.close()
        shutil.rmtree(self.folder)


def _answer(submission: Submission) -> Answer:
    if submission.refusal is not None:
        return Answer(submission.refusal.reason)
    assert submission.accepted is not None
    return Answer("", submission.accepted.version, submission.accepted.position, submission.accepted.duplicate)


TestRequestIds = RequestIds.TestCase
TestRequestIds.settings = settings(max_examples=EXAMPLES or 25, stateful_step_count=20, deadline=None)
