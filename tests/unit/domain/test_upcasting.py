"""Upcasters: events of old types in states and folds, and wrong upcasters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from diptych import Aggregate, Deciding, Domain, Projection
from diptych.domain.checks import check_declarations
from diptych.domain.errors import DomainError
from diptych.domain.loading import event_types_of
from diptych.domain.memory_rows import MemoryRows
from diptych.testing import fold, given, log_of
from library.v1.command_service_pb2 import AddCopyRequest
from library.v1.events_pb2 import CopyAdded, CopyBorrowed, CopyReturned, MemberRegistered
from library.v1.resources_pb2 import Member


@dataclass(frozen=True)
class State:
    title: str = ""


Declare = Callable[[Aggregate[State]], object]


def copies(*declare: Declare) -> Aggregate[State]:
    """Return an aggregate that records CopyAdded alone."""
    made = Aggregate[State]("copy", initial=State(), id="copy_id")

    @made.decides(AddCopyRequest)
    def add(state: State, command: AddCopyRequest, at: Deciding) -> Sequence[CopyAdded]:
        return [CopyAdded(copy_id=at.id, title=state.title + command.title)]

    @made.evolves(CopyAdded)
    def added(state: State, event: CopyAdded) -> State:
        return State(event.title)

    for one in declare:
        one(made)
    return made


def borrowed_was_added(aggregate: Aggregate[State]) -> None:
    @aggregate.upcast(CopyBorrowed, CopyAdded)
    def upcast(event: CopyBorrowed) -> CopyAdded:
        return CopyAdded(copy_id=event.copy_id, title=f"<{event.member_id}>")


def returned_was_borrowed(aggregate: Aggregate[State]) -> None:
    @aggregate.upcast(CopyReturned, CopyBorrowed)
    def upcast(event: CopyReturned) -> CopyBorrowed:
        return CopyBorrowed(copy_id=event.copy_id, member_id=event.member_id)


def titles() -> Projection:
    made = Projection("titles", version=1)
    view = made.view("titles", Member)

    @view.on(CopyAdded, key=lambda event: event.copy_id)
    def added(row: Member | None, event: CopyAdded, at: Any) -> Member:
        return Member(member_id=event.copy_id, name=(row.name if row else "") + event.title)

    return made


OLD = (
    CopyReturned(copy_id="c", member_id="m1"),
    CopyBorrowed(copy_id="c", member_id="m2"),
    CopyAdded(copy_id="c", title="new"),
)


def test_aggregate_evolves_upcast_events() -> None:
    aggregate = copies(borrowed_was_added, returned_was_borrowed)
    for old, title in ((OLD[0], "<m1>"), (OLD[1], "<m2>"), (OLD[2], "new")):
        given(aggregate, old).when(AddCopyRequest(copy_id="c", title="!")).then(
            CopyAdded(copy_id="c", title=f"{title}!")
        )
        kind = old.DESCRIPTOR.full_name
        assert aggregate.recorded(kind, old.SerializeToString()) == CopyAdded(copy_id="c", title=title)
    with pytest.raises(LookupError, match="does not know the event nothing"):
        aggregate.recorded("nothing", b"")


def test_projection_folds_upcast_events_and_has_their_old_types() -> None:
    projection = titles()
    Domain("library", aggregates=[copies(borrowed_was_added, returned_was_borrowed)], projections=[projection])
    assert fold(projection.views[0], *OLD) == {"c": Member(member_id="c", name="<m1><m2>new")}
    assert projection.event_types == {kind.DESCRIPTOR.full_name for kind in (CopyReturned, CopyBorrowed, CopyAdded)}


def test_event_upcast_to_a_type_that_no_view_folds_changes_nothing() -> None:
    def either(aggregate: Aggregate[State]) -> None:
        @aggregate.upcast(CopyBorrowed, CopyAdded, MemberRegistered)
        def upcast(event: CopyBorrowed) -> CopyAdded | MemberRegistered:
            return CopyAdded(copy_id=event.copy_id) if event.member_id else MemberRegistered(member_id="m")

        aggregate.evolves(MemberRegistered)(lambda state, event: state)

    projection = titles()
    Domain("library", aggregates=[copies(either)], projections=[projection])
    rows = MemoryRows(projection)
    folded = rows.apply(log_of(CopyBorrowed(copy_id="c1", member_id="m"), CopyBorrowed(copy_id="c2")))
    assert folded.failure is None
    assert (list(rows.rows["titles"]), folded.last and folded.last.position) == (["c1"], 2)


def test_upcaster_that_returns_another_type_fails_the_fold() -> None:
    def wrong(aggregate: Aggregate[State]) -> None:
        @aggregate.upcast(CopyBorrowed, CopyAdded)
        def upcast(event: CopyBorrowed) -> Any:
            return event

    projection = titles()
    Domain("library", aggregates=[copies(wrong)], projections=[projection])
    failure = MemoryRows(projection).apply(log_of(OLD[1])).failure
    assert "returned a CopyBorrowed, and it becomes library.v1.CopyAdded" in str(failure)
    assert "The upcaster of library.v1.CopyBorrowed, upcast (tests/unit/domain/test_upcasting.py:" in str(failure)


def test_aggregate_refuses_wrong_upcasters() -> None:
    with pytest.raises(ValueError, match=r"library\.v1\.CopyBorrowed is upcast twice by aggregate copy"):
        copies(borrowed_was_added, borrowed_was_added)
    with pytest.raises(ValueError, match="is upcast to nothing"):
        copies().upcast(CopyBorrowed)
    with pytest.raises(ValueError, match="is upcast to itself"):
        copies().upcast(CopyBorrowed, CopyBorrowed)
    with pytest.raises(ValueError, match=r"CopyBorrowed is upcast to itself"):
        copies(returned_was_borrowed).upcast(CopyBorrowed, CopyReturned)


def checked(aggregate: Aggregate[State], *projections: Projection) -> None:
    """Check a domain of these as loading does, without its contracts."""
    domain = Domain("library", aggregates=[aggregate], projections=projections)
    check_declarations(domain, event_types_of(domain), aggregate.deciders)


def test_load_refuses_wrong_upcasters() -> None:
    checked(copies(borrowed_was_added, returned_was_borrowed), titles())

    def evolved(aggregate: Aggregate[State]) -> None:
        aggregate.evolves(CopyBorrowed)(lambda state, event: state)

    with pytest.raises(DomainError, match="which copy upcasts, is evolved or upcast as well"):
        checked(copies(borrowed_was_added, evolved))
    with pytest.raises(DomainError, match=r"CopyReturned is upcast to library\.v1\.CopyBorrowed, for which"):
        checked(copies(returned_was_borrowed))

    def unknown(aggregate: Aggregate[State]) -> None:
        aggregate.upcast(CopyBorrowed, CopyAdded)(lambda event: CopyAdded(copy_id=event.copies))  # type: ignore[attr-defined]

    def unknown_too(aggregate: Aggregate[State]) -> None:
        aggregate.upcast(CopyBorrowed, CopyAdded)(lambda event: CopyAdded(copies=event.copy_id))  # type: ignore[call-arg]

    for wrong in (unknown, unknown_too):
        with pytest.raises(DomainError, match=r"upcaster of library\.v1\.CopyBorrowed .*copies"):
            checked(copies(wrong))

    projection = titles()
    projection.views[0].on(CopyBorrowed, key=lambda event: event.copy_id)(lambda row, event, at: row)
    with pytest.raises(DomainError, match="that event is upcast before it is folded; fold what it becomes"):
        checked(copies(borrowed_was_added), projection)
