"""`diptych up`: the three servers under one supervisor, on SQLite files in one folder."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

from diptych.cli import sample as samples
from diptych.cli.child import Child
from diptych.cli.domain_source import find_domain
from diptych.cli.observation import get_head, observe
from diptych.cli.ports import PortTaken
from diptych.cli.screen import Screen, open_screen
from diptych.cli.server_children import ServerPorts, UpSettings, reserve_ports, server_children
from diptych.cli.supervisor import ChildFailed, Supervisor
from diptych.client import CallRefused, Connection, open_channel
from diptych.contract.identity_codec import identity_from_message
from diptych.contract.token import LogIdentity
from diptych.server.channels import CallError, Channel
from diptych.server.leash import hold_leash
from diptych.server.options import fail, with_settings
from diptych.server.program import discard_output
from diptych.server.settings import CommandServerSettings, ProjectorSettings, QueryServerSettings
from diptych.storage.files import make_folder

_STOP_SECONDS = 12.0
"""Limit for the stop of one server, which gives its calls 10 s to end. A server that takes longer hangs."""
_HEAD_SECONDS = 10.0
_REFRESH_SECONDS = 0.5


@with_settings("up", UpSettings, CommandServerSettings, ProjectorSettings, QueryServerSettings)
def up(settings: UpSettings) -> int:
    """Start command server, projector and query server, and restart one that ends."""
    hold_leash()
    try:
        make_folder(settings.data / "logs")
    except OSError as error:
        fail("up", f"--data: {settings.data} cannot be created: {error.strerror or error}.")
    try:
        ports = reserve_ports(settings)
    except PortTaken as error:
        fail("up", str(error), status=1)
    return asyncio.run(_up(settings, ports))


async def _up(settings: UpSettings, ports: ServerPorts) -> int:
    """Run the servers until a signal comes or one fails at its first start; return the exit status."""
    signalled = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled.set)
    async with AsyncExitStack() as stack:
        pair = await stack.enter_async_context(
            Connection(ports.command_server.serving.address, ports.query_server.serving.address, retry_seconds=30)
        )
        projector = await stack.enter_async_context(open_channel(ports.projector.serving.address))
        screen = open_screen()
        children = server_children(settings, ports, (pair.commands, projector, pair.queries))
        supervisor = Supervisor(children, screen.print_line)
        running = asyncio.create_task(_run(settings, supervisor, screen, pair, projector))
        stopping = asyncio.create_task(signalled.wait())
        with screen:
            await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
            running.cancel()
            signalled.clear()
            await _stop(supervisor, signalled)
        stopping.cancel()
        try:
            await running
        except asyncio.CancelledError:
            screen.print_line(_how_to_go_on(settings))
            return 0
        except BrokenPipeError:  # The reader of the output, such as `head`, has ended.
            discard_output()
            print(f"diptych up: {_how_to_go_on(settings)}", file=sys.stderr, flush=True)
            return 0
        except ChildFailed as error:
            print(f"diptych up: {error}", file=sys.stderr, flush=True)
            return 1
    return 1


async def _stop(supervisor: Supervisor, signalled: asyncio.Event) -> None:
    """Stop all servers; kill them if a second signal comes."""
    stopped = asyncio.create_task(supervisor.stop(_STOP_SECONDS))
    second_signal = asyncio.create_task(signalled.wait())
    await asyncio.wait((stopped, second_signal), return_when=asyncio.FIRST_COMPLETED)
    second_signal.cancel()
    if not stopped.done():
        supervisor.kill()
    await stopped


async def _run(
    settings: UpSettings, supervisor: Supervisor, screen: Screen, pair: Connection, projector: Channel
) -> None:
    """Start all servers, load the sample, and show calls to try and then the state of the servers, until cancelled."""
    source = find_domain(settings.domain)
    if source is not None:
        screen.print_line(f"Domain {settings.domain} {source}")
    refreshing = asyncio.create_task(_refresh(supervisor, screen, pair, projector))
    try:
        await supervisor.start()
        if screen.calls_max is None:  # A table shows the addresses itself.
            addresses = " ".join(f"{child.name}={child.address}" for child in supervisor.children)
            screen.print_line(f"diptych up ready {addresses}")
        await _show_start(settings, supervisor, screen, pair)
        watching = asyncio.create_task(supervisor.watch())
        await asyncio.wait((watching, refreshing), return_when=asyncio.FIRST_COMPLETED)
        for task in (watching, refreshing):
            if task.done():
                task.result()
    finally:
        refreshing.cancel()


async def _show_start(settings: UpSettings, supervisor: Supervisor, screen: Screen, pair: Connection) -> None:
    """Show the log, its head and the read store; load the domain's sample into an empty log; show calls to try."""
    sample = samples.find(settings.domain)
    # The file marks a log with a part of the sample: an interrupted load left it, and the load continues.
    unfinished = settings.data / "sample.unfinished"
    try:
        identity, head = await _log(pair)
        screen.print_line(
            f"Log {settings.log_dsn}, id {identity.log_id.hex()}, epoch {identity.epoch}, head {head:,}; "
            f"read store {settings.read_store_dsn}"
        )
        if not settings.empty and sample.commands and (head == 0 or unfinished.exists()):
            unfinished.touch()
            await samples.load(pair, sample)
            unfinished.unlink()
            screen.print_line(f"Loaded the sample of {settings.domain}: {len(sample.commands)} commands.")
    except CallRefused as refused:
        screen.print_line(f"The sample of {settings.domain} could not be loaded: {refused}")
    command, query = supervisor.children[0].address, supervisor.children[2].address
    calls = list(samples.calls(sample, commands=command, queries=query, token=pair.token))
    screen.print_line(first_steps(settings, supervisor.children, calls, screen.calls_max))


def first_steps(
    settings: UpSettings, children: Sequence[Child], calls: list[tuple[str, str]], calls_max: int | None
) -> str:
    """Return text with calls to try, the addresses of metrics, the folder of logs, and the key that stops."""
    stop = f"Ctrl-C stops the servers; their data stays in {settings.data}."
    if calls_max is not None:
        # The first two calls are a command and a query in a sample; the last one is answered by every domain.
        lines = [line for _, line in [*calls[:-1][: calls_max - 1], calls[-1]]]
        return "\n".join(["Try in another terminal:", *lines, f"Logs: {settings.data / 'logs'}. {stop}", ""])
    lines = ["Try these calls in another terminal:"]
    for title, line in calls:
        lines += ["", f"  # {title}", f"  {line}"]
    metrics = " ".join(f"http://{child.metrics}/metrics" for child in children)
    return "\n".join([*lines, "", f"Metrics: {metrics}", f"Logs: {settings.data / 'logs'}", stop, ""])


def _how_to_go_on(settings: UpSettings) -> str:
    """Return a line with the folder of the data and the command that continues with it."""
    given = sys.argv[1:] if sys.argv[1:2] == ["up"] else ["up", f"--data={settings.data}"]
    return f"stopped, data in {settings.data}, run `{shlex.join([samples.program(), *given])}` to go on"


async def _log(pair: Connection) -> tuple[LogIdentity, int]:
    """Return the log's identity and head, and present the head to later queries. Raise `CallRefused`."""
    try:
        answer = await get_head(pair.commands, _HEAD_SECONDS)
    except CallError as error:
        raise CallRefused.of(error) from None
    identity = identity_from_message(answer.identity)
    assert identity is not None, "a command server knows its log"
    pair.add_token(identity.token(answer.head_position))
    return identity, answer.head_position


async def _refresh(supervisor: Supervisor, screen: Screen, pair: Connection, projector: Channel) -> None:
    """Show the state of the servers every half second, until cancelled."""
    metrics = supervisor.children[0].metrics if screen.counts_commands else ""
    while True:
        screen.update(supervisor.children, await observe(pair.commands, projector, metrics))
        await asyncio.sleep(_REFRESH_SECONDS)
