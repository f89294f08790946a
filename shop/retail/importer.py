"""Importer: sends the commands of a file over a stream, counts their outcomes, and waits until queries include them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TextIO

import grpc

from diptych.client import CallRefused, CommandStream, Connection, Outcome
from diptych.v1.read_model_pb2 import WAIT_OUTCOME_TIMED_OUT, WaitForVersionResponse
from shop.retail.commands import Command, Commands
from shop.retail.reader import InvoiceReader
from shop.retail.sums import Summing

MESSAGE_BYTES_MAX = 1 << 20
"""Length at which a message is sent; the server's limit is four times as much."""
_EXAMPLES = 3
_AGAIN_MAX = 10_000
_AGAIN_SECONDS = 0.5
_WAIT_SECONDS = 1.0
_THERE_ALREADY = frozenset({"USER_EXISTS", "PRODUCT_EXISTS"})
_COMES_YET = frozenset({"UNKNOWN_USER", "UNKNOWN_PRODUCT", "PRODUCT_NOT_FOUND"})
"""Refusals because an earlier command has not created the thing yet. A repeat may succeed."""
_FOR_THE_MOMENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED})


class Refused(NamedTuple):
    """Commands that were refused for one reason."""

    commands: int
    examples: Sequence[str]


class Tally:
    """Outcomes of the commands."""

    def __init__(self) -> None:
        self.accepted: Counter[str] = Counter()
        """Commands that took effect now, by kind."""
        self.duplicates = 0
        """Commands that were accepted before, under the same request id."""
        self.there_already: Counter[str] = Counter()
        """Things that already existed, by kind of command. They keep their name and price."""
        self.refused: dict[tuple[str, str], Refused] = {}
        """All other commands, by kind and reason."""
        self.again: list[tuple[Command, CallRefused]] = []
        """Commands whose repeat may succeed."""

    @property
    def refusals(self) -> int:
        """Return the number of refused commands."""
        return sum(refused.commands for refused in self.refused.values())

    def add(self, command: Command, outcome: Outcome) -> None:
        """Count the outcome of a command."""
        if not isinstance(outcome, CallRefused):
            if outcome.duplicate:
                self.duplicates += 1
            else:
                self.accepted[command.kind] += 1
        elif outcome.reason in _THERE_ALREADY:
            self.there_already[command.kind] += 1
        elif _may_pass(outcome) and len(self.again) < _AGAIN_MAX:
            self.again.append((command, outcome))
        else:
            self._refuse(command, outcome)

    def give_up(self) -> None:
        """Count the commands that were to be repeated as refused."""
        for command, outcome in self.again:
            self._refuse(command, outcome)
        self.again = []

    def _refuse(self, command: Command, outcome: CallRefused) -> None:
        key = (command.kind, outcome.reason or outcome.code.name)
        before = self.refused.get(key, Refused(0, ()))
        examples = before.examples
        if len(examples) < _EXAMPLES:
            examples = (*examples, f"{command.of}: {outcome.message}")
        self.refused[key] = Refused(before.commands + 1, examples)


class Progress(NamedTuple):
    """Progress of the sending."""

    rows: int
    bytes: int
    refused: int


class Imported(NamedTuple):
    """Result of an import."""

    reader: InvoiceReader
    summing: Summing
    tally: Tally


class Importer:
    """Imports a file over a connection, with at most `window` messages of `batch` commands in flight."""

    def __init__(self, shop: Connection, *, window: int, batch: int) -> None:
        self._shop = shop
        self._window = window
        self._batch = batch

    async def run(self, file: TextIO, progress: Callable[[Progress], None]) -> Imported:
        """Send all commands. Raise `UnreadableFile`, or `CallRefused` if the command server stays away."""
        reader, summing, tally = InvoiceReader(file), Summing(), Tally()
        async with self._shop.command_stream(window=self._window) as stream:
            sending = _Sending(stream, tally)
            for message in messages_of(reader, summing, self._batch):
                # The next message is made while the server decides the ones before it.
                await sending.send(message)
                progress(Progress(reader.rows, file.buffer.tell() if file.seekable() else 0, tally.refusals))
            await sending.finish()
            await self._again(sending, tally)
        return Imported(reader, summing, tally)

    async def _again(self, sending: _Sending, tally: Tally) -> None:
        """Repeat the commands whose repeat may succeed, while the number of refusals falls."""
        before = len(tally.again) + 1
        while tally.again and len(tally.again) < before:
            before = len(tally.again)
            commands, tally.again = [command for command, _ in tally.again], []
            await asyncio.sleep(_AGAIN_SECONDS)
            for start in range(0, len(commands), self._batch):
                await sending.send(commands[start : start + self._batch])
            await sending.finish()
        tally.give_up()

    async def wait(self, progress: Callable[[WaitForVersionResponse], None]) -> WaitForVersionResponse | None:
        """Wait until every view includes all commands, and return the outcome; None if nothing was sent."""
        while self._shop.token:
            answer = await self._shop.wait_for(timeout_seconds=_WAIT_SECONDS)
            progress(answer)
            if answer.outcome != WAIT_OUTCOME_TIMED_OUT:
                return answer
        return None


class _Sending:
    """Messages in flight on a stream."""

    def __init__(self, stream: CommandStream, tally: Tally) -> None:
        self._stream = stream
        self._tally = tally
        self._sent: deque[tuple[Sequence[Command], asyncio.Future[list[Outcome]]]] = deque()

    async def send(self, commands: Sequence[Command]) -> None:
        """Send a message when the window has room for it, and count the answers that came."""
        self._sent.append((commands, await self._stream.submit([command.envelope for command in commands])))
        while self._sent and self._sent[0][1].done():
            await self._count()

    async def finish(self) -> None:
        """Wait for all answers."""
        while self._sent:
            await self._count()

    async def _count(self) -> None:
        commands, answer = self._sent.popleft()
        for command, outcome in zip(commands, await answer, strict=True):
            self._tally.add(command, outcome)


def messages_of(reader: InvoiceReader, summing: Summing, batch: int) -> Iterator[list[Command]]:
    """Yield messages of at most `batch` commands for all invoices."""
    commands, message, size = Commands(), [], 0
    for invoice in reader:
        summing.add(invoice)
        for command in commands.of(invoice):
            message.append(command)
            size += command.size
            if len(message) >= batch or size >= MESSAGE_BYTES_MAX:
                yield message
                message, size = [], 0
    if message:
        yield message


def _may_pass(refused: CallRefused) -> bool:
    return refused.code in _FOR_THE_MOMENT or refused.reason in _COMES_YET
