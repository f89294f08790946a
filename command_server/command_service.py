"""CommandService: the domain's commands, one rpc each."""

from __future__ import annotations

import asyncio

from command_server.byte_limits import ByteLimit
from command_server.dispatch import Caller, Dispatcher, result_bytes
from command_server.event_tail import EventTail
from command_server.writer import Writer
from diptych.contract.wire import delimited
from diptych.domain.loading import LoadedDomain
from diptych.domain.methods import CommandMethod
from diptych.domain.refusal import Refusal
from diptych.server.errors import internal_error
from diptych.server.request_context import RequestContext
from diptych.server.router import Router, UnaryHandler


class CommandService:
    """Binds every command of a domain to its rpc.

    An answer's token is the greater of the presented token and the outcome's. A refusal has one, too.
    """

    def __init__(
        self, domain: LoadedDomain, writer: Writer, tail: EventTail, router: Router, commands: ByteLimit
    ) -> None:
        self._dispatcher = Dispatcher(domain)
        self._writer = writer
        self._tail = tail
        self._commands = commands
        for method in domain.commands.values():
            router.bind_unary(domain.command_service, method.name, self._handler(method))

    def _handler(self, method: CommandMethod) -> UnaryHandler:
        async def handle(request: bytes, context: RequestContext) -> bytes:
            identity = self._tail.identity
            presented = context.presented_token(identity)
            context.token = presented or identity.zero_token  # For a refusal without a position.
            caller = Caller.of(context)
            try:
                command = self._dispatcher.parse(method, request)
                submission = self._dispatcher.submission(method, command, caller)
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

                def done() -> None:
                    self._commands.release(size)
                    if not future.done():
                        future.set_result(None)

                submission.done = done
                remaining = context.time_remaining()
                if remaining is not None:
                    submission.deadline = asyncio.get_running_loop().time() + remaining
                size = len(request)
                self._commands.acquire(size)
                try:
                    self._writer.submit(submission)
                except BaseException:
                    self._commands.release(size)
                    raise
                try:
                    await future
                except asyncio.CancelledError:
                    submission.abandoned = True
                    raise
                if submission.early_refusal is not None:
                    raise submission.early_refusal
                if submission.refusal is not None:
                    context.token = max(presented, identity.token(submission.position))
                    raise submission.refusal
            except Refusal:
                raise
            except Exception as error:
                raise internal_error(error, caller.request_id, command=method.name) from error
            assert submission.accepted is not None
            result, token = result_bytes(submission.accepted, identity)
            context.token = max(presented, token)
            return delimited(1, result)

        return handle
