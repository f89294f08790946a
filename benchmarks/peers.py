"""Peers: `eventsourcing` and `umadb`, each used as its own documentation recommends.

`eventsourcing` is a library: it runs in the caller's process, with its SQLite recorder and without a network. `umadb`
is a server in Rust with a blocking Python client, so many callers are many threads. Neither of them validates,
remembers request ids or keeps read models in these measurements.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.measure import Measure, absent
from diptych.cli.ports import Reservation
from tests.support.programs import Program

_EVENTSOURCING = "benchmarks.eventsourcing_peer"
_UMADB = "benchmarks.umadb_peer"

Side = Callable[[], float]


def installed(name: str) -> bool:
    """Return True if a peer is installed; the extra `bench` installs both."""
    return importlib.util.find_spec(name) is not None


def eventsourcing_saves(bench: Bench) -> Side | Measure:
    """Return the side that saves new aggregates per second."""
    if not installed("eventsourcing"):
        return _missing("command-64/eventsourcing", "eventsourcing")
    worker = bench.worker()
    return lambda: worker.call(f"{_EVENTSOURCING}:saves", folder=str(bench.folder), seconds=bench.effort.seconds)


def eventsourcing_load_save(bench: Bench) -> Side | Measure:
    """Return the side that loads, changes and saves aggregates of 10 events per second."""
    if not installed("eventsourcing"):
        return _missing("load-decide-append/eventsourcing", "eventsourcing")
    worker = bench.worker()
    return lambda: worker.call(f"{_EVENTSOURCING}:load_saves", folder=str(bench.folder), seconds=bench.effort.seconds)


def eventsourcing_projects(bench: Bench, events: int) -> Side | Measure:
    """Return the side that projects events per second into a table, each into its own row."""
    if not installed("eventsourcing"):
        return _missing("fold-one-table/eventsourcing", "eventsourcing")
    worker = bench.worker()
    return lambda: worker.call(f"{_EVENTSOURCING}:projects", folder=str(bench.folder), events=events)


def umadb_appends(bench: Bench) -> Side | Measure:
    """Return the side that appends events per second one by one, by 64 threads."""
    return _umadb(bench, "stream-100/umadb", "appends")


def umadb_load_append(bench: Bench) -> Side | Measure:
    """Return the side that reads ten events by tag and appends one on condition, by 64 threads, per second."""
    return _umadb(bench, "load-decide-append/umadb", "load_appends")


def _umadb(bench: Bench, name: str, job: str) -> Side | Measure:
    if not installed("umadb"):
        return _missing(name, "umadb")
    reservation = Reservation("127.0.0.1:0")
    address = reservation.address
    reservation.close()  # umadb cannot listen on a port that another socket holds.
    arguments = ["--listen", address, "--db-path", str(bench.folder / "uma.db")]
    executable = str(Path(sys.executable).with_name("umadb"))
    log = bench.folder / "umadb.log"
    server = bench.running(Program(arguments, log=log, executable=executable, ready="UmaDB started"))
    server.start()
    worker = bench.worker()
    return lambda: worker.call(f"{_UMADB}:{job}", address=address, seconds=bench.effort.seconds)


def _missing(name: str, package: str) -> Measure:
    return absent(name, f"beside {package}", f"{package} is not installed: pip install -e '.[bench]'")
