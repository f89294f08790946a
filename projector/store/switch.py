"""Switch: one generation becomes active in place of another, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection

from diptych.server import failpoints
from diptych.storage.errors import OvertakenError
from diptych.storage.read_store import Generation, Lease
from diptych.storage.read_store_schema import DROPPED
from projector.store.generations import check_fence, read_live, set_stage


def switch(
    connection: sqlite3.Connection,
    lease: Lease,
    generation: int,
    led_elsewhere: Callable[[Collection[int]], frozenset[int]],
) -> None:
    """Make a generation active. Both checkpoints are already written in the caller's transaction.

    1. The active generation with the same shape is replaced, and kept. It must not be further than the new one.
    2. The new generation becomes active.
    3. Of the others, superfluous ones are dropped.

    Args:
        connection: Connection with an open transaction.
        lease: Lease of the leader.
        generation: The generation that becomes active.
        led_elsewhere: Return the versions, of some, that another projector leads.

    Raises:
        OvertakenError: The replaced generation has applied more of the same log.
        LeaseLostError: Another leader has taken over.
    """
    check_fence(connection, lease)
    name = lease.projection.name
    found = read_live(connection, name)
    new = next(one for one in found if one.generation == generation)
    others = [one for one in found if one is not new]
    replaced = [one for one in others if one.active and one.shape == new.shape]
    for one in replaced:
        if one.position > new.position and (one.log_id, one.epochs) == (new.log_id, new.epochs):
            raise OvertakenError(f"generation {one.generation} is at {one.position}, beyond {new.position}")
        set_stage(connection, name, one.generation, active=False, stage="")
    set_stage(connection, name, generation, active=True, stage="")
    elsewhere = led_elsewhere({one.version for one in others} - {new.version})
    for one in _superfluous(new, others, replaced, elsewhere):
        set_stage(connection, name, one.generation, active=False, stage=DROPPED)
    failpoints.hit("switch.written")


def _superfluous(
    new: Generation, others: list[Generation], replaced: list[Generation], led_elsewhere: frozenset[int]
) -> list[Generation]:
    """Return the generations to drop: all but the replaced one, or else the last older version's active one."""
    kept = replaced
    if not kept:
        older = [one for one in others if one.active and one.version < new.version]
        kept = sorted(older, key=lambda one: one.version)[-1:]
    return [
        one
        for one in others
        if one not in kept and one.version <= new.version and (one.version not in led_elsewhere or one.is_kept)
    ]
