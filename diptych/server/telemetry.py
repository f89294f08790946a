"""Telemetry: log lines and metrics."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from typing import TextIO, cast

import structlog
from prometheus_client import start_http_server

from diptych.server.errors import StartError
from diptych.server.port_user import listen_error


class _Stderr:
    """Standard error that drops a line it cannot write, as on a full disk, and raises nothing."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def configure_logging(program: str, level: str, form: str) -> None:
    """Send log lines to stderr.

    Args:
        program: Name of the server, a field of every line.
        level: Lowest level to log, such as `info`.
        form: `console` for text, `json` for JSON.
    """
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        # Plain traces: the rich ones show local variables, which hold data of users.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if form == "json" else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(program=program)


def serve_metrics(address: str | None) -> Callable[[], None]:
    """Serve Prometheus metrics at `http://HOST:PORT/metrics`, and return the function that stops it.

    Args:
        address: `HOST:PORT`; None: no metrics are served.

    Raises:
        StartError: The port is taken, or no server can listen on the address.
    """
    if address is None:
        return lambda: None
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), addr=host.strip("[]"))
    except OSError as error:
        raise StartError(listen_error(address, error, "--metrics-address")) from error

    def stop() -> None:
        server.shutdown()
        thread.join()

    return stop
