"""The three servers of a domain as processes, on ports of their own, with their files in one folder.

Most tests use the fixture `pair` of `tests/integration/conftest.py`; with settings of its own a test uses
`started_pair`. Each server can be killed, stopped, frozen and started again::

    async def test_a_command_survives_a_kill(pair: Pair) -> None:
        async with pair.connect() as shop:
            answer = await shop.execute(RegisterUserRequest(user_id="ada", email="ada@example.com"))
            pair.command.kill()
            await pair.command.restart()
            ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import grpc

from diptych.client import Connection
from diptych.v1.read_model_pb2 import GetStatusResponse
from tests.support.polling import eventually_blocking
from tests.support.programs import START_SECONDS, Server

Settings = Mapping[str, Mapping[str, object]]
"""Settings by server: `{"command-server": {"batch_commands_max": 1}}`."""


class Pair:
    """Command server, projector and query server of one domain, none of them started yet.

    Args:
        data: Folder of log, read store and the servers' own logs; it is created.
        domain: Name of the domain.
        settings: Settings by server.
        env: Environment variables of all servers, such as `SHOP_PAYMENTS`.
        options: Command-line options of all servers.
    """

    def __init__(
        self,
        data: Path,
        *,
        domain: str = "shop",
        settings: Settings | None = None,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self.data = data
        self._settings = settings or {}
        self._env = env or {}
        self._options = (f"--domain={domain}", *options)
        read_store = f"--read-store=sqlite:///{data / 'read.db'}"
        self.command = self._server("command-server", f"--log=sqlite:///{data / 'log.db'}")
        commands = f"--commands={self.command.address}"
        self.projector = self._server("projector", commands, read_store)
        self._query_arguments = (commands, f"--projector={self.projector.address}", read_store)
        self.query = self._server("query-server", *self._query_arguments)
        self._more: list[Server] = []

    @property
    def servers(self) -> tuple[Server, ...]:
        """All servers of the pair."""
        return (self.command, self.projector, self.query, *self._more)

    def connect(self, **options: Any) -> Connection:
        """Return a client of the command server and the first query server, for use in `async with`."""
        return Connection(self.command.address, self.query.address, **options)

    def another_query_server(self, commands: str = "") -> Server:
        """Start one more query server on the same read store and return it.

        Args:
            commands: Address at which it reaches the command server; empty: that of the command server.
        """
        arguments = self._query_arguments
        if commands:
            arguments = (f"--commands={commands}", *arguments[1:])
        server = self._server("query-server", *arguments, number=len(self._more) + 2)
        self._more.append(server)
        server.start()
        return server

    def start(self) -> None:
        """Start all servers together and wait until every projection can be read."""
        for server in self.servers:
            server.spawn()
        for server in self.servers:
            server.wait_ready()
        self.wait_readable()

    def wait_readable(self) -> None:
        """Wait until the query server can read every projection, and not only the first one."""
        with grpc.insecure_channel(self.query.address) as channel:
            get_status: Any = channel.unary_unary("/diptych.v1.ReadModelService/GetStatus")

            def is_readable() -> bool:
                status = GetStatusResponse.FromString(get_status(b"", timeout=START_SECONDS))
                return bool(status.projections) and all(projection.generation for projection in status.projections)

            eventually_blocking(is_readable, what="every projection can be read", seconds=START_SECONDS)

    def stop(self) -> None:
        """Stop all servers that run, as an operator would. They can be started again."""
        for server in reversed(self.servers):
            if server.running:
                server.stop()

    def close(self) -> None:
        """Kill all servers and release their ports."""
        for server in reversed(self.servers):
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _server(self, name: str, *arguments: str, number: int = 1) -> Server:
        own = [f"--{key.replace('_', '-')}={value}" for key, value in self._settings.get(name, {}).items()]
        log = self.data / f"{name}{number if number > 1 else ''}.log"
        return Server(name, *self._options, *arguments, *own, log=log, env=self._env)


@contextmanager
def started_pair(
    data: Path,
    domain: str = "shop",
    settings: Settings | None = None,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Iterator[Pair]:
    """Start a pair and close it at the end; `Pair` describes the arguments."""
    with Pair(data, domain=domain, settings=settings, env=env, options=options) as pair:
        pair.start()
        yield pair
