"""`diptych rebuild --uniques`: fold the unique values of a log again, while no server has it open."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from diptych.domain.errors import DomainError
from diptych.domain.loading import LoadedDomain, load
from diptych.server.errors import StartError
from diptych.server.options import fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from command_server.store.unique_refold import Refolded


def rebuild_uniques(log: Path, domain: str) -> None:
    """Fold all unique values again and print their numbers. End the program with a sentence if that fails."""
    from command_server.store.event_store import StoreUnavailable
    from command_server.store.unique_refold import UniqueConflict

    if not log.exists():
        fail("rebuild", f"There is no log {log}.", status=1)
    try:
        results = asyncio.run(_refold(log, load(domain)))
    except DomainError as error:
        fail("rebuild", str(error))
    except StartError as error:
        fail("rebuild", f"{error} Stop the command server before you rebuild its unique values.", status=1)
    except StoreUnavailable as error:
        fail("rebuild", f"The log {log} cannot be written: {error}.", status=1)
    except UniqueConflict as error:
        fail("rebuild", f"Nothing was changed, as there are conflicts: {error}.", status=1)
    for names, aggregates, values in results:
        typer.echo(f"{', '.join(names)}: {values:,} values of {aggregates:,} aggregates")
    if not results:
        typer.echo(f"the domain {domain} declares no unique values")


async def _refold(log: Path, domain: LoadedDomain) -> Sequence[Refolded]:
    from command_server.store.sqlite_store import SqliteEventStore

    store = SqliteEventStore(log, "rebuild --uniques")
    await store.open()
    try:
        return await store.refold_uniques(list(domain.domain.aggregates.values()), everything=True)
    finally:
        await store.close()
