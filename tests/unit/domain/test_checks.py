"""Checks of a domain when it is loaded; each names the wrong declaration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from diptych import After, Aggregate, Call, Deciding, Domain, Find, Port, Process, Projection, Recorded, Send
from diptych.domain.errors import DomainError
from diptych.domain.loading import LoadedDomain, load
from library.copies import copy
from library.lending import activity, lending
from library.mail import mail
from library.members import member
from library.reservations import reservation
from library.v1.command_service_pb2 import BorrowCopyRequest, ReturnCopyRequest
from library.v1.events_pb2 import (
    CopyAdded,
    CopyBorrowed,
    CopyReturned,
    MemberRegistered,
    PickupExpired,
    ReservationEnded,
)
from library.v1.query_service_pb2 import (
    GetLoanDayRequest,
    GetMemberRequest,
    GetOpenLoanRequest,
    ListMembersRequest,
    ListMembersResponse,
    ListOverdueLoansResponse,
)
from library.v1.resources_pb2 import LoanDay, Member, OpenLoan
from shop.v1.user_events_pb2 import UserRegistered


def changed(aggregate: Aggregate[Any], *, without: Sequence[type] = ()) -> Aggregate[Any]:
    """Return a copy of an aggregate without the deciders and evolvers of these types."""
    excluded = {kind.DESCRIPTOR.full_name for kind in without}  # type: ignore[attr-defined]
    made = Aggregate[Any](aggregate.type, initial=aggregate.initial, id=aggregate.id)
    made.deciders = {name: one for name, one in aggregate.deciders.items() if name not in excluded}
    made.evolvers = {name: one for name, one in aggregate.evolvers.items() if name not in excluded}
    return made


def loaded(
    *,
    aggregates: Sequence[Aggregate[Any]] = (member, copy),
    projections: Sequence[Projection] = (lending, activity),
    processes: Sequence[Process[Any]] = (reservation,),
    ports: Sequence[Port[Any, Any]] = (mail,),
) -> LoadedDomain:
    return LoadedDomain(
        Domain("library", aggregates=aggregates, projections=projections, processes=processes, ports=ports)
    )


def more(declare: Callable[[Projection], object]) -> Sequence[Projection]:
    """Return the library's projections and one more."""
    projection = Projection("more", version=1)
    declare(projection)
    return (lending, activity, projection)


def instead(declare: Callable[[Projection], object], *, of: type) -> Sequence[Projection]:
    """Return the library's projections, with one query declared in another way."""
    left_out = of.DESCRIPTOR.full_name  # type: ignore[attr-defined]
    projections = []
    for projection in (lending, activity):
        made = Projection(projection.name, version=1)
        made.views = projection.views
        made.queries = {name: query for name, query in projection.queries.items() if name != left_out}
        projections.append(made)
    return (*projections, more(declare)[-1])


def fold_nothing(row: Any, event: Any, at: Recorded) -> Any:
    return row


def test_load_refuses_a_command_without_a_decider() -> None:
    with pytest.raises(DomainError, match=r"Rpc library\.v1\.CommandService\.BorrowCopy has no decider"):
        loaded(aggregates=[member, changed(copy, without=[BorrowCopyRequest])])


def test_load_refuses_a_decider_without_an_rpc() -> None:
    stray = Aggregate[int]("stray", initial=0, id=lambda command: "one")
    stray.decides(GetMemberRequest)(lambda state, command, at: [])
    with pytest.raises(DomainError, match=r"has no rpc for the command\(s\) library\.v1\.GetMemberRequest"):
        loaded(aggregates=[member, copy, stray])


def test_load_refuses_a_command_that_two_aggregates_decide() -> None:
    other = Aggregate[int]("other", initial=0, id="copy_id")
    other.decides(ReturnCopyRequest)(lambda state, command, at: [])
    with pytest.raises(DomainError, match=r"Command library\.v1\.ReturnCopyRequest is decided by two aggregates"):
        loaded(aggregates=[member, copy, other])


def test_load_refuses_an_event_without_an_evolver() -> None:
    with pytest.raises(DomainError, match=r"ReturnCopyRequest records library\.v1\.CopyReturned.*copy has no evolver"):
        loaded(aggregates=[member, changed(copy, without=[CopyReturned])])


def test_load_refuses_one_event_of_several_without_an_evolver() -> None:
    def decide(state: int, command: ReturnCopyRequest, at: Deciding) -> Sequence[CopyReturned | MemberRegistered]:
        return []

    several = changed(copy, without=[ReturnCopyRequest])
    several.decides(ReturnCopyRequest)(decide)
    with pytest.raises(DomainError, match=r"ReturnCopyRequest records library\.v1\.MemberRegistered"):
        loaded(aggregates=[member, several])


def test_load_refuses_an_event_that_two_aggregates_evolve() -> None:
    other = Aggregate[int]("other", initial=0, id="copy_id")
    other.evolves(CopyAdded)(lambda state, event: state)
    with pytest.raises(DomainError, match=r"Event library\.v1\.CopyAdded is evolved by two aggregates"):
        loaded(aggregates=[member, copy, other])


def test_load_refuses_a_state_without_a_codec() -> None:
    @dataclass(frozen=True)
    class Shelf:
        books: tuple[dict[str, str], ...] = ()

    with pytest.raises(DomainError, match=r"The state of aggregate shelf has no codec: Shelf\.books\[\] is a dict"):
        loaded(aggregates=[member, copy, Aggregate("shelf", initial=Shelf(), id="shelf_id")])


def test_load_refuses_a_state_that_is_not_frozen() -> None:
    @dataclass
    class Shelf:
        pass

    with pytest.raises(DomainError, match=r"aggregate shelf has no codec.*Shelf, which is not frozen"):
        loaded(aggregates=[member, copy, Aggregate("shelf", initial=Shelf(), id="shelf_id")])


def test_load_refuses_an_rpc_without_a_query() -> None:
    with pytest.raises(DomainError, match=r"Rpc library\.v1\.QueryService\.GetLoanDay has no query"):
        loaded(projections=[lending])


def test_load_refuses_a_query_without_an_rpc() -> None:
    def declare(projection: Projection) -> None:
        projection.view("extra", Member).get(BorrowCopyRequest, key=lambda q: q.copy_id)

    with pytest.raises(DomainError, match=r"has no rpc for the query\(s\) library\.v1\.BorrowCopyRequest"):
        loaded(projections=more(declare))


def test_load_refuses_a_query_that_two_projections_answer() -> None:
    with pytest.raises(DomainError, match=r"Query library\.v1\.GetMemberRequest is answered by two projections"):
        loaded(projections=more(lambda p: p.view("extra", Member).get(GetMemberRequest, key=lambda q: q.member_id)))


def test_load_refuses_a_query_with_rows_of_another_type_than_its_rpc() -> None:
    def declare(projection: Projection) -> None:
        projection.view("extra", LoanDay).get(GetMemberRequest, key=lambda q: q.member_id)

    with pytest.raises(
        DomainError, match=r"GetMember returns library\.v1\.Member, and view extra has rows of .*LoanDay"
    ):
        loaded(projections=instead(declare, of=GetMemberRequest))


def test_load_refuses_a_list_with_another_response_than_its_rpc() -> None:
    def declare(projection: Projection) -> None:
        projection.view("extra", OpenLoan).find(ListMembersRequest, ListOverdueLoansResponse)(lambda q, now: Find())

    with pytest.raises(DomainError, match=r"ListMembers does not return library\.v1\.ListOverdueLoansResponse"):
        loaded(projections=instead(declare, of=ListMembersRequest))


def test_load_refuses_a_list_response_without_a_field_for_the_rows() -> None:
    def declare(projection: Projection) -> None:
        projection.view("extra", OpenLoan).find(ListMembersRequest, ListMembersResponse)(lambda q, now: Find())

    with pytest.raises(DomainError, match=r"ListMembersResponse needs exactly one repeated field of .*OpenLoan"):
        loaded(projections=instead(declare, of=ListMembersRequest))


def test_load_refuses_an_order_by_a_column_of_another_view() -> None:
    def declare(projection: Projection) -> None:
        other = projection.view("other", Member).column("email", lambda row: row.email)
        extra = projection.view("extra", Member)
        extra.find(ListMembersRequest, ListMembersResponse, order_by={"email": other})(lambda q, now: Find())

    with pytest.raises(DomainError, match="Query ListMembers orders by email, a column of view other"):
        loaded(projections=instead(declare, of=ListMembersRequest))


@pytest.mark.parametrize("request_type", [GetOpenLoanRequest, GetLoanDayRequest])
def test_load_refuses_a_query_key_of_an_unknown_field(request_type: type[Any]) -> None:
    row = OpenLoan if request_type is GetOpenLoanRequest else LoanDay

    def declare(projection: Projection) -> None:
        projection.view("extra", row).get(request_type, key=lambda q: q.shelf_id)

    with pytest.raises(DomainError, match=r"The key of query Get\w+ uses an unknown field: .*shelf_id"):
        loaded(projections=instead(declare, of=request_type))


def test_load_refuses_a_fold_key_of_an_unknown_field() -> None:
    def declare(projection: Projection) -> None:
        projection.view("extra", Member).on(MemberRegistered, key=lambda e: e.shelf_id)(fold_nothing)  # type: ignore[attr-defined]

    with pytest.raises(
        DomainError, match=r"The key of view extra on library\.v1\.MemberRegistered uses an unknown field: .*shelf_id"
    ):
        loaded(projections=more(declare))


def test_load_refuses_parts_of_an_unknown_field() -> None:
    def declare(projection: Projection) -> None:
        view = projection.view("extra", Member)
        view.on_parts(MemberRegistered, parts=lambda e: {e.shelf_id: 1})(fold_nothing)  # type: ignore[attr-defined]

    with pytest.raises(DomainError, match=r"The key of view extra on .*MemberRegistered uses an unknown field"):
        loaded(projections=more(declare))


def test_load_refuses_a_look_up_of_an_unknown_field() -> None:
    def declare(projection: Projection) -> None:
        first, second = projection.view("first", Member), projection.view("second", Member)
        second.on(MemberRegistered, key=lambda e: e.member_id, reads=lambda e: [first.at(e.shelf_id)])(fold_nothing)  # type: ignore[attr-defined]

    with pytest.raises(DomainError, match=r"`reads` of view second on .* uses an unknown field: .*shelf_id"):
        loaded(projections=more(declare))


@pytest.mark.parametrize("read", ["first", "second"])
def test_load_refuses_a_look_up_in_a_view_that_is_not_earlier(read: str) -> None:
    def declare(projection: Projection) -> None:
        views = {name: projection.view(name, Member) for name in ("first", "second")}
        views["first"].on(CopyBorrowed, key=lambda e: e.loan_id, reads=lambda e: [views[read].at(e.member_id)])(
            fold_nothing
        )

    with pytest.raises(DomainError, match=f"View first looks up view {read}, which is not declared before it"):
        loaded(projections=more(declare))


def test_load_refuses_a_look_up_across_projections() -> None:
    def declare(projection: Projection) -> None:
        view = projection.view("extra", Member)
        members = lending.views[0]
        view.on(CopyBorrowed, key=lambda e: e.loan_id, reads=lambda e: [members.at(e.member_id)])(fold_nothing)

    with pytest.raises(DomainError, match="View extra looks up view members of projection lending"):
        loaded(projections=more(declare))


def test_load_refuses_a_fold_of_an_event_that_no_aggregate_records() -> None:
    def declare(projection: Projection) -> None:
        projection.view("extra", Member).on(UserRegistered, key=lambda e: e.user_id)(fold_nothing)

    with pytest.raises(DomainError, match=r"View extra on shop\.v1\.UserRegistered: no aggregate of the domain"):
        loaded(projections=more(declare))


def test_load_refuses_an_index_with_a_column_of_another_view() -> None:
    def declare(projection: Projection) -> None:
        first, second = projection.view("first", Member), projection.view("second", Member)
        first.index_on(second.column("email", lambda row: row.email))

    with pytest.raises(DomainError, match="An index of view first has a column of another view"):
        loaded(projections=more(declare))


def test_load_refuses_contracts_without_services() -> None:
    with pytest.raises(DomainError, match=r"The contracts declare no service nothing\.v1\.CommandService"):
        LoadedDomain(Domain("nothing", aggregates=[], projections=[]))


def with_process(declare: Callable[[Process[Any]], object]) -> Sequence[Process[Any]]:
    """Return the library's process and one more."""
    process = Process[Any]("more", initial=reservation.initial, id="copy_id")
    declare(process)
    return (reservation, process)


def nothing(state: Any, message: Any, at: Deciding) -> Sequence[Any]:
    return []


def sends_a_query(state: Any, message: Any, at: Deciding) -> Sequence[Send[GetMemberRequest]]:
    return []


def sets_nothing(state: Any, message: Any, at: Deciding) -> Sequence[After[PickupExpired]]:
    return []


def records_what_it_does_not_evolve(state: Any, message: Any, at: Deciding) -> Sequence[ReservationEnded]:
    return []


@pytest.mark.parametrize(
    ("declare", "error"),
    [
        (
            lambda process: process.reacts(UserRegistered, key=lambda e: e.user_id)(nothing),
            r"handles event shop\.v1\.UserRegistered, which no aggregate of the domain records",
        ),
        (
            lambda process: process.accepted(GetMemberRequest)(nothing),
            r"handles acceptances of library\.v1\.GetMemberRequest, which is no command of the domain",
        ),
        (
            lambda process: process.refused(GetMemberRequest)(nothing),
            r"handles refusals of library\.v1\.GetMemberRequest, which is no command of the domain",
        ),
        (
            lambda process: process.answered(GetMemberRequest)(nothing),
            r"handles answers to library\.v1\.GetMemberRequest, for which the domain has no port",
        ),
        (
            lambda process: process.failed(GetMemberRequest)(nothing),
            r"handles failures of library\.v1\.GetMemberRequest, for which the domain has no port",
        ),
        (
            lambda process: process.reacts(CopyAdded, key=lambda e: e.nobody)(nothing),
            r"[Tt]he key of process more on library\.v1\.CopyAdded uses an unknown field",
        ),
        (
            lambda process: process.reacts(CopyAdded, key=lambda e: e.copy_id)(sends_a_query),
            r"on library\.v1\.CopyAdded, sends library\.v1\.GetMemberRequest, which is no command",
        ),
        (
            lambda process: process.reacts(CopyAdded, key=lambda e: e.copy_id)(sets_nothing),
            r"sets timeout library\.v1\.PickupExpired, which process more does not handle",
        ),
        (
            lambda process: process.reacts(CopyAdded, key=lambda e: e.copy_id)(records_what_it_does_not_evolve),
            r"records library\.v1\.ReservationEnded, for which process more has no evolver",
        ),
    ],
)
def test_load_refuses_a_process_with_an_input_or_output_of_no_use(
    declare: Callable[[Process[Any]], object], error: str
) -> None:
    with pytest.raises(DomainError, match=error):
        loaded(processes=with_process(declare))


def test_load_refuses_an_effect_without_a_port() -> None:
    def declare(process: Process[Any]) -> None:
        process.reacts(CopyAdded, key=lambda e: e.copy_id)(calls_a_port)

    with pytest.raises(DomainError, match=r"answers to library\.v1\.SendNoticeRequest, for which"):
        loaded(ports=())
    with pytest.raises(DomainError, match=r"calls library\.v1\.GetMemberRequest, for which the domain has no port"):
        loaded(processes=with_process(declare))


def calls_a_port(state: Any, message: Any, at: Deciding) -> Sequence[Call[GetMemberRequest]]:
    return []


def test_internal_command_has_a_decider_and_no_rpc() -> None:
    found = load("library")
    assert "library.v1.PutCopyAsideRequest" in found.deciders
    assert "library.v1.PutCopyAsideRequest" not in found.commands
    made = changed(copy, without=[ReturnCopyRequest])
    made.decides(ReturnCopyRequest, internal=True)(nothing)
    with pytest.raises(DomainError, match=r"ReturnCopyRequest is internal, and yet .* has an rpc for it, ReturnCopy"):
        loaded(aggregates=(member, made))


_HERE = r"^.*test_checks\.py:\d+: "


def test_errors_begin_with_file_and_line_of_the_declaration() -> None:
    with pytest.raises(DomainError, match=_HERE + "Rpc .* has no decider"):
        loaded(aggregates=[member, changed(copy, without=[BorrowCopyRequest])])
    with pytest.raises(DomainError, match=_HERE + r"There are two projections named more; .*test_checks\.py:\d+\."):
        loaded(projections=[Projection("more", version=1), Projection("more", version=1)])
    again = more(lambda projection: projection.view("more", Member).get(GetMemberRequest, key=lambda q: q.member_id))
    with pytest.raises(DomainError, match=r"lending\.py:\d+: Query library\.v1\.GetMemberRequest is answered by two"):
        loaded(projections=list(reversed(again)))


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (lambda e: len(e.copy_id), r"returned 0, an int; return a text, as str\(\.\.\.\)\."),
        (lambda e: None, r"returned None; return a text\."),
        (lambda e, at: at.position, r"returned 1, an int; return a text"),
    ],
)
def test_load_refuses_a_key_that_is_no_text(key: Any, error: str) -> None:
    def declare(projection: Projection) -> None:
        projection.view("more", OpenLoan).on(CopyBorrowed, key=key)(fold_nothing)

    with pytest.raises(DomainError, match=_HERE + rf"The key of view more on library\.v1\.CopyBorrowed {error}"):
        loaded(projections=more(declare))


def test_load_refuses_a_key_that_is_annotated_as_no_text() -> None:
    def key(event: CopyBorrowed) -> int:
        return int(event.loan_id)

    def declare(projection: Projection) -> None:
        untyped: Any = key
        projection.view("more", OpenLoan).on(CopyBorrowed, key=untyped)(fold_nothing)

    with pytest.raises(DomainError, match=_HERE + "The key of view more .* is annotated to return int"):
        loaded(projections=more(declare))


def test_load_accepts_a_key_of_event_and_place() -> None:
    def declare(projection: Projection) -> None:
        view = projection.view("more", OpenLoan)
        view.on(CopyBorrowed, key=lambda e, at: f"{e.copy_id}.{at.version}")(fold_nothing)

    loaded(projections=more(declare))


def test_load_names_the_fields_that_a_key_could_use() -> None:
    def declare(projection: Projection) -> None:
        untyped: Any = lambda e: e.entryid  # noqa: E731
        projection.view("more", OpenLoan).on(CopyReturned, key=untyped)(fold_nothing)

    fields = "copy_id, member_id, loan_id, day"
    with pytest.raises(
        DomainError, match=_HERE + rf"The key .* unknown field: entryid\. The fields of \S+CopyReturned: {fields}\."
    ):
        loaded(projections=more(declare))


@pytest.mark.parametrize("ordered", [False, True])
def test_bug_condition_on_a_column_of_another_view_was_found_by_its_first_caller(ordered: bool) -> None:
    def declare(projection: Projection) -> None:
        others = projection.view("others", Member).column("email", lambda row: row.email)
        view = projection.view("more", Member)

        @view.find(ListMembersRequest, ListMembersResponse)
        def find(query: ListMembersRequest, now: datetime) -> Find:
            return Find(order=others) if ordered else Find(others.eq("x"))

    what = "orders by" if ordered else "has a condition on"
    with pytest.raises(
        DomainError,
        match=_HERE
        + rf"Query library\.v1\.ListMembersRequest, find .* {what} column email of view others, and it finds "
        r"rows of view more; use a column of more",
    ):
        loaded(projections=instead(declare, of=ListMembersRequest))


async def _asynchronous(state: Any, command: Any, at: Deciding) -> Sequence[CopyAdded]:
    return []


def _generator(state: Any, command: Any, at: Deciding) -> Any:
    yield CopyAdded()


def _two(state: Any, command: Any) -> Sequence[CopyAdded]:
    return []


def _event(state: Any, command: Any, at: Deciding) -> CopyAdded:
    return CopyAdded()


def _nothing(state: Any, command: Any, at: Deciding) -> None:
    return None


@pytest.mark.parametrize(
    ("decide", "error"),
    [
        (_asynchronous, "is a coroutine function; handlers are pure functions"),
        (_generator, "is a generator function, as it has a `yield`; return a list"),
        (_two, r"takes \(.*command: .*\); declare it as \(state, command, at\)"),
        (_event, "is annotated to return CopyAdded; return a list of events"),
        (_nothing, "is annotated to return NoneType; return a list of events"),
    ],
)
def test_load_refuses_a_decider_that_cannot_return_a_list(decide: Any, error: str) -> None:
    copies = changed(copy, without=[ReturnCopyRequest])
    copies.decides(ReturnCopyRequest)(decide)
    with pytest.raises(DomainError, match=_HERE + rf"The decider of library\.v1\.ReturnCopyRequest {error}"):
        loaded(aggregates=[member, copies])


def test_load_refuses_evolvers_folds_and_handlers_with_other_parameters() -> None:
    def declare(projection: Projection) -> None:
        untyped: Any = lambda row, event: row  # noqa: E731
        projection.view("more", OpenLoan).on(CopyBorrowed, key=lambda e: e.loan_id)(untyped)

    with pytest.raises(DomainError, match=_HERE + r"The fold of view more on .* declare it as \(row, event, at\)"):
        loaded(projections=more(declare))
    copies = changed(copy, without=[CopyReturned])
    untyped: Any = lambda state: state  # noqa: E731
    copies.evolves(CopyReturned)(untyped)
    with pytest.raises(DomainError, match=_HERE + r"The evolver of \S+CopyReturned takes \(state\); declare it as"):
        loaded(aggregates=[member, copies])
    process = Process[int]("listener", initial=0, id="copy_id")
    process.reacts(CopyReturned, key=lambda e: e.copy_id)(untyped)
    with pytest.raises(DomainError, match=_HERE + r"Process listener, on \S+CopyReturned takes \(state\); declare it"):
        loaded(processes=[reservation, process])


def test_column_of_none_or_of_an_unknown_field_names_the_remedy() -> None:
    view = Projection("more", version=1).view("more", OpenLoan)
    untyped: Any = lambda row: row.due_time if row.HasField("due_time") else None  # noqa: E731
    with pytest.raises(TypeError, match="Column due of view more gives None for an empty row; return a value"):
        view.column("due", untyped)
    with pytest.raises(
        ValueError, match=r"Column due of view more fails on an empty row: due\. The fields of \S+: loan_id"
    ):
        view.column("due", lambda row: row.due)  # type: ignore[attr-defined]
