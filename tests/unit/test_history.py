"""The judge sees planted bugs: each is put into a history that is right, and the check that must find it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import Message

from diptych.contract.token import Token
from diptych.domain.loading import load
from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.read_model_pb2 import WaitOutcome
from shop.v1.product_commands_pb2 import AdjustStockRequest, CreateProductRequest
from shop.v1.product_events_pb2 import ProductCreated, StockAdjusted
from shop.v1.user_commands_pb2 import AssignRoleRequest, RecordLoginRequest, RegisterUserRequest
from shop.v1.user_events_pb2 import LoginRecorded, UserRegistered
from shop.v1.users_pb2 import USER_ROLE_CUSTOMER, USER_ROLE_SELLER, User
from tests.history.judge import Case, check_names, judge
from tests.history.model import Truth, overlap
from tests.history.records import (
    Fault,
    Followed,
    FrameKind,
    History,
    Read,
    Refused,
    Stored,
    StoredRow,
    Wait,
    Watched,
    WatchFrame,
    Write,
    WriteStatus,
)
from tests.history.shop import ShopEffects

DOMAIN = load("shop").domain
ROLES = [("role_statistics", "USER_ROLE_CUSTOMER")]


def token(position: int) -> str:
    return str(Token(b"the  log", 1, position))


def recorded(position: int, stream: str, version: int, event: Message) -> RecordedEvent:
    kind, _, id = stream.partition("/")
    made = RecordedEvent(position=position, version=version, event_id=f"event-{position}")
    made.aggregate.type, made.aggregate.id = kind, id
    made.record_time.seconds = 1_700_000_000 + position
    made.metadata.request_id = f"r-{position}"
    made.event.Pack(event)
    return made


def stock(before: int, delta: int) -> StockAdjusted:
    return StockAdjusted(product_id="tea", delta=delta, stock=before + delta, previous_stock=before)


LOG = [
    recorded(1, "user/ada", 1, UserRegistered(user_id="ada", email="ada@example.com", role=USER_ROLE_CUSTOMER)),
    recorded(2, "product/tea", 1, ProductCreated(product_id="tea", stock=5)),
    recorded(3, "user/ada", 2, LoginRecorded(user_id="ada")),
    recorded(4, "product/tea", 2, stock(5, -2)),
    recorded(5, "user/ada", 3, LoginRecorded(user_id="ada")),
    recorded(6, "user/bob", 1, UserRegistered(user_id="bob", email="bob@example.com", role=USER_ROLE_CUSTOMER)),
    recorded(7, "product/tea", 3, stock(3, 4)),
    recorded(8, "user/ada", 4, LoginRecorded(user_id="ada")),
]
COMMANDS: list[Message] = [
    RegisterUserRequest(user_id="ada", email="ada@example.com"),
    CreateProductRequest(product_id="tea", stock=5),
    RecordLoginRequest(user_id="ada"),
    AdjustStockRequest(product_id="tea", delta=-2),
    RecordLoginRequest(user_id="ada"),
    RegisterUserRequest(user_id="bob", email="bob@example.com"),
    AdjustStockRequest(product_id="tea", delta=4),
    RecordLoginRequest(user_id="ada"),
]
TRUTH = Truth(DOMAIN, LOG)


def row(view: str, key: str, position: int) -> bytes | None:
    return TRUTH.row(view, key, position)


def reading(at: float, key: str, position: int, *, presented: int = 0, view: str = "users", **more: Any) -> Read:
    """A read by `c` that is answered right, at a position."""
    return Read(
        client="c",
        server="query-1",
        view=view,
        began=at,
        ended=at + 0.1,
        presented=token(presented) if presented else "",
        trailer=token(position),
        rows={key: row(view, key, position)},
        timeout=1.0,
        **more,
    )


def waiting(at: float, position: int, outcome: WaitOutcome, took: float, applied: int) -> Wait:
    return Wait(
        client="c",
        server="query-1",
        view="users",
        began=at,
        ended=at + took,
        timeout=0.3,
        token=token(position),
        outcome=outcome,
        applied=applied,
        head=8,
        progress_token=token(applied),
        trailer=token(max(applied, position)),
    )


def lying(position: int, projection: str = "users") -> Stored:
    """Return the rows of a projection in the read store at a position."""
    views = [view.name for view in DOMAIN.projections[projection].views]
    rows: dict[str, dict[str, StoredRow]] = {}
    for view in views:
        changes = {key: TRUTH.change(view, key, position) for key in TRUTH.keys(view)}
        rows[view] = {
            key: StoredRow(position=change[1], content=change[2], columns=tuple(change[3:]))
            for key, change in changes.items()
            if change is not None
        }
    return Stored(
        taken=20.0 + position,
        projection=projection,
        generation=1,
        position=position,
        event_id=LOG[position - 1].event_id,
        rows=rows,
    )


def frame(at: float, kind: FrameKind, *rows: tuple[str, int], **more: Any) -> WatchFrame:
    """A frame with rows as they became at positions."""
    return WatchFrame(
        at=at, kind=kind, rows=tuple((key, position, row("users", key, position)) for key, position in rows), **more
    )


def watching() -> Watched:
    """A watch that is told everything: a snapshot, changes, and on another connection those since the last cut."""
    frames = (
        frame(4.0, FrameKind.OPENED, server="query-1"),
        frame(4.1, FrameKind.ROWS, ("ada", 3)),
        frame(4.2, FrameKind.CAUGHT_UP, resume_token="at-4"),
        frame(5.2, FrameKind.ROWS, ("ada", 5), resume_token="at-5"),
        frame(6.2, FrameKind.ROWS, ("bob", 6)),
        frame(6.3, FrameKind.OPENED, resume_token="at-5", server="query-2"),
        frame(6.4, FrameKind.ROWS, ("bob", 6), resume_token="at-6"),
        frame(7.5, FrameKind.PROGRESS, position=7, resume_token="at-7"),
        frame(8.2, FrameKind.ROWS, ("ada", 8), resume_token="at-8"),
        frame(8.5, FrameKind.PROGRESS, position=8, resume_token="at-8"),
    )
    return Watched(client="w", view="users", keys=None, frames=frames)


def history() -> History:
    """A history in which every promise is kept: the command of position P is sent at P and soon answered."""
    writes = [
        Write(
            client="c",
            request_id=f"r-{position}",
            command=command,
            stream=f"{event.aggregate.type}/{event.aggregate.id}",
            began=float(position),
            ended=position + 0.5,
            status=WriteStatus.ACKNOWLEDGED,
            version=event.version,
            token=token(position),
        )
        for position, (command, event) in enumerate(zip(COMMANDS, LOG, strict=True), 1)
    ]
    # The second's first answer was lost; it was repeated when it had been recorded.
    writes[1] = replace(writes[1], status=WriteStatus.UNKNOWN, version=0, token="", code="UNAVAILABLE")
    writes.append(
        replace(
            writes[1], began=2.6, ended=2.9, status=WriteStatus.ACKNOWLEDGED, version=1, token=token(2), duplicate=True
        )
    )
    writes.append(
        Write(
            client="c",
            request_id="r-refused",
            command=AdjustStockRequest(product_id="tea", delta=-100),
            stream="product/tea",
            began=9.0,
            ended=9.1,
            status=WriteStatus.REFUSED,
            code="FAILED_PRECONDITION",
            reason="STOCK_TOO_LOW",
        )
    )
    behind = {"applied_position": "7", "wanted_position": "8"}
    return History(
        writes=writes,
        reads=[
            reading(3.6, "ada", 3, presented=3),
            reading(6.1, "ada", 6, presented=5),
            reading(7.0, "bob", 6, presented=5),
            reading(8.6, "ada", 8, presented=8),
            reading(9.0, "ada", 8),
            reading(9.2, "USER_ROLE_CUSTOMER", 8, view="role_statistics", whole=True),
            replace(
                reading(9.5, "ada", 8, presented=8),
                server="query-2",
                rows={},
                ended=10.48,
                refused=Refused(code="DEADLINE_EXCEEDED", reason="READ_MODEL_BEHIND", metadata=behind),
            ),
            replace(reading(11.0, "eve", 8, presented=8), rows={"eve": None}),
        ],
        waits=[
            waiting(8.55, 8, WaitOutcome.WAIT_OUTCOME_REACHED, 0.01, 8),
            waiting(6.0, 6, WaitOutcome.WAIT_OUTCOME_TIMED_OUT, 0.29, 5),
        ],
        followed=[
            Followed(client="f", after=0, events=tuple((event.position, event.event_id) for event in LOG)),
            Followed(
                client="g",
                after=0,
                events=((1, "event-1"), (6, "event-6")),
                types=frozenset({"shop.v1.UserRegistered"}),
            ),
        ],
        watched=[watching()],
        faults=[Fault(kind="kill", target="projector", began=9.4, ended=9.6)],
        stored=[lying(3), lying(5), lying(8), lying(8, "products")],
        log=list(LOG),
        final={"users": 8, "products": 8},
    )


def failed_checks(planted: History) -> set[str]:
    return {finding.check for finding in judge(Case(planted, DOMAIN, ShopEffects()))}


def test_a_history_that_keeps_all_promises_has_no_findings() -> None:
    assert judge(Case(history(), DOMAIN, ShopEffects())) == []


Plant = Callable[[History], None]
PLANTS: list[tuple[str, str, Plant]] = []


def plant(check: str) -> Callable[[Plant], Plant]:
    """Registers a planted bug with the check that must find it."""

    def register(function: Plant) -> Plant:
        PLANTS.append((check, function.__name__, function))
        return function

    return register


def change(records: list[Any], index: int, **fields: Any) -> None:
    records[index] = replace(records[index], **fields)


def copies(log: list[RecordedEvent]) -> list[RecordedEvent]:
    return [RecordedEvent.FromString(event.SerializeToString()) for event in log]


# The log.


@plant("gap_free_order")
def a_position_is_missing(h: History) -> None:
    h.log = copies(h.log)
    h.log[7].position = 9


@plant("gap_free_order")
def positions_are_reordered(h: History) -> None:
    h.log[4], h.log[5] = h.log[5], h.log[4]


@plant("gap_free_order")
def a_version_is_skipped(h: History) -> None:
    h.log = copies(h.log)
    h.log[7].version = 5


@plant("gap_free_order")
def an_event_id_comes_twice(h: History) -> None:
    h.log = copies(h.log)
    h.log[7].event_id = h.log[0].event_id


@plant("subscribers_saw_the_log")
def a_subscriber_misses_an_event(h: History) -> None:
    change(h.followed, 0, events=tuple(one for one in h.followed[0].events if one[0] != 4))


@plant("subscribers_saw_the_log")
def a_filtered_subscriber_misses_an_event(h: History) -> None:
    change(h.followed, 1, events=((6, "event-6"),))


@plant("subscribers_saw_the_log")
def a_subscriber_gets_an_event_twice(h: History) -> None:
    seen = h.followed[0].events
    change(h.followed, 0, events=(*seen[:4], *seen[3:]))


@plant("subscribers_saw_the_log")
def a_subscriber_saw_what_is_lost(h: History) -> None:
    change(h.followed, 0, events=(*h.followed[0].events, (9, "event-9")))


@plant("acknowledged_is_durable")
def an_acknowledged_command_is_lost(h: History) -> None:
    h.log.pop()


@plant("acknowledged_is_durable")
def an_acknowledged_command_is_lost_and_another_is_in_its_place(h: History) -> None:
    h.log = copies(h.log)
    h.log[7].metadata.request_id = "r-other"


@plant("acknowledged_is_durable")
def a_token_is_one_too_high(h: History) -> None:
    change(h.writes, 4, token=token(6))


@plant("acknowledged_is_durable")
def a_command_that_may_record_nothing_is_lost(h: History) -> None:
    lost = AssignRoleRequest(user_id="bob", role=USER_ROLE_SELLER)
    h.writes.append(
        replace(h.writes[7], request_id="r-lost", command=lost, stream="user/bob", version=2, token=token(8))
    )


@plant("acknowledged_is_durable")
def a_command_recorded_something_else(h: History) -> None:
    change(h.writes, 3, command=AdjustStockRequest(product_id="tea", delta=-1))


@plant("effects_are_taken_once")
def a_retry_takes_effect_again(h: History) -> None:
    h.log = copies(h.log)
    h.log[7].metadata.request_id = "r-5"
    del h.writes[7]


@plant("effects_are_taken_once")
def a_repeat_is_answered_with_a_newer_version(h: History) -> None:
    h.writes.append(replace(h.writes[2], began=8.6, ended=8.7, version=4, token=token(8), duplicate=True))


@plant("effects_are_taken_once")
def a_repeat_is_no_duplicate(h: History) -> None:
    h.writes.append(replace(h.writes[2], began=8.6, ended=8.7))


@plant("effects_are_taken_once")
def an_event_comes_from_nobody(h: History) -> None:
    del h.writes[7]


@plant("refused_takes_no_effect")
def a_refused_command_takes_effect(h: History) -> None:
    change(h.writes, 7, status=WriteStatus.REFUSED, reason="STOCK_TOO_LOW", token="", version=0)


@plant("expected_versions_are_kept")
def a_stale_version_is_accepted(h: History) -> None:
    change(h.writes, 7, expected_version=2)


@plant("order_follows_time")
def a_later_command_is_recorded_earlier(h: History) -> None:
    change(h.writes, 4, began=8.7, ended=8.9)


@plant("rules_of_the_domain")
def two_users_have_one_email(h: History) -> None:
    h.log = copies(h.log)
    h.log[5].event.Pack(UserRegistered(user_id="bob", email="ADA@example.com", role=USER_ROLE_CUSTOMER))
    change(h.writes, 5, command=RegisterUserRequest(user_id="bob", email="ADA@example.com"))


@plant("rules_of_the_domain")
def a_decision_is_made_on_an_old_state(h: History) -> None:
    h.log = copies(h.log)
    h.log[6].event.Pack(stock(5, 4))


# Reads.


@plant("reads_are_cuts")
def a_read_with_a_token_is_stale(h: History) -> None:
    change(h.reads, 3, rows={"ada": row("users", "ada", 5)})


@plant("writes_are_read")
def a_client_does_not_read_its_write(h: History) -> None:
    change(h.reads, 3, rows={"ada": row("users", "ada", 5)})


@plant("reads_are_cuts")
def a_row_is_staler_than_its_trailer(h: History) -> None:
    change(h.reads, 4, rows={"ada": row("users", "ada", 5)})


@plant("reads_are_cuts")
def a_row_never_was_like_that(h: History) -> None:
    change(h.reads, 3, rows={"ada": User(user_id="ada", version=4, login_count=4).SerializeToString()})


@plant("reads_are_cuts")
def a_row_shows_what_was_not_sent_yet(h: History) -> None:
    change(h.reads, 0, rows={"ada": row("users", "ada", 8)})


@plant("reads_are_cuts")
def a_list_mixes_two_positions(h: History) -> None:
    rows = {"ada": row("user_summaries", "ada", 5), "bob": row("user_summaries", "bob", 8)}
    h.reads.append(replace(reading(9.2, "", 0, view="user_summaries", whole=True), rows=rows, trailer=token(5)))
    h.reads[-1] = replace(h.reads[-1], rows={"ada": row("user_summaries", "ada", 3), "bob": rows["bob"]}, trailer="")


@plant("reads_are_cuts")
def a_list_leaves_a_row_out(h: History) -> None:
    rows = {"ada": row("user_summaries", "ada", 8)}
    h.reads.append(replace(reading(9.2, "ada", 8, view="user_summaries", whole=True), rows=rows))


@plant("reads_are_cuts")
def a_row_that_is_there_is_not_found(h: History) -> None:
    change(h.reads, 2, rows={"bob": None}, trailer=token(6))


@plant("reads_do_not_go_back")
def a_row_goes_back(h: History) -> None:
    h.reads.append(reading(11.0, "ada", 8, presented=8))
    change(h.reads, -1, rows={"ada": row("users", "ada", 5)})


@plant("tokens_tell_the_truth")
def a_trailer_is_lower_than_what_was_presented(h: History) -> None:
    change(h.reads, 3, trailer=token(7))


@plant("tokens_tell_the_truth")
def an_answer_has_no_trailer(h: History) -> None:
    change(h.reads, 3, trailer="")


@plant("tokens_tell_the_truth")
def a_trailer_is_ahead_of_the_log(h: History) -> None:
    change(h.reads, 4, trailer=token(9))


@plant("tokens_tell_the_truth")
def a_trailer_is_ahead_of_what_was_sent(h: History) -> None:
    change(h.reads, 0, trailer=token(5))


# Verdicts.


@plant("reached_is_readable")
def a_plain_read_after_reached_does_not_show_it(h: History) -> None:
    change(h.reads, 4, rows={"ada": row("users", "ada", 5)}, trailer=token(5))


@plant("waits_do_not_lie")
def reached_is_said_too_early(h: History) -> None:
    change(h.waits, 0, applied=7, progress_token=token(7))


@plant("waits_do_not_lie")
def reached_is_said_of_a_version_that_is_not_there(h: History) -> None:
    change(h.waits, 0, token="", stream="user/ada", version=9)


@plant("waits_do_not_lie")
def a_wait_times_out_too_early(h: History) -> None:
    change(h.waits, 1, ended=h.waits[1].began + 0.1)


@plant("waits_do_not_lie")
def a_wait_times_out_for_what_is_applied(h: History) -> None:
    change(h.waits, 1, applied=6, progress_token=token(6))


@plant("waits_do_not_lie")
def a_wait_times_out_for_what_was_shown(h: History) -> None:
    h.waits.append(waiting(8.8, 8, WaitOutcome.WAIT_OUTCOME_TIMED_OUT, 0.29, 7))


@plant("waits_do_not_lie")
def a_wait_says_paused_without_a_cause(h: History) -> None:
    change(h.waits, 1, outcome=WaitOutcome.WAIT_OUTCOME_PAUSED)


def behind(h: History, **fields: Any) -> None:
    metadata = {"applied_position": "7", "wanted_position": "8"} | fields.pop("metadata", {})
    refused = Refused(code="DEADLINE_EXCEEDED", reason=fields.pop("reason", "READ_MODEL_BEHIND"), metadata=metadata)
    change(h.reads, 6, refused=refused, **fields)


@plant("refusals_do_not_lie")
def behind_is_said_too_early(h: History) -> None:
    behind(h, ended=h.reads[6].began + 0.2)


@plant("refusals_do_not_lie")
def behind_is_said_of_what_is_applied(h: History) -> None:
    behind(h, metadata={"applied_position": "8"})


@plant("refusals_do_not_lie")
def behind_is_said_of_what_was_shown(h: History) -> None:
    behind(h, server="query-1")
    h.faults.clear()


@plant("refusals_do_not_lie")
def a_read_is_stalled_without_a_cause(h: History) -> None:
    behind(h, reason="READ_MODEL_STALLED")


@plant("writes_are_refused_in_our_words")
def a_refusal_has_no_reason(h: History) -> None:
    change(h.writes, -1, reason="", code="UNKNOWN")


@plant("writes_are_refused_in_our_words")
def a_command_fails_by_a_defect(h: History) -> None:
    change(h.writes, -1, reason="INTERNAL", code="INTERNAL")


# Watches.


def tell(h: History, index: int, *frames: WatchFrame) -> None:
    """Puts other frames in the place of one."""
    told = h.watched[0].frames
    change(h.watched, 0, frames=(*told[:index], *frames, *told[index + 1 :]))


@plant("watches_come_to_the_end")
def a_watcher_misses_a_row(h: History) -> None:
    tell(h, 6, frame(6.4, FrameKind.PROGRESS, position=6))


@plant("watches_are_cuts")
def a_watcher_misses_a_row_before_a_cut(h: History) -> None:
    tell(h, 6)


@plant("watches_come_to_the_end")
def a_watcher_misses_the_last_state(h: History) -> None:
    tell(h, 8)


@plant("watches_are_cuts")
def a_progress_mark_is_too_high(h: History) -> None:
    tell(h, 7, frame(7.5, FrameKind.PROGRESS, position=8, resume_token="at-7"))


@plant("watches_are_cuts")
def a_cut_ends_within_a_snapshot(h: History) -> None:
    tell(h, 1, frame(8.0, FrameKind.ROWS, ("ada", 5)), frame(8.1, FrameKind.CAUGHT_UP, resume_token="at-4"))
    tell(h, 2, frame(8.1, FrameKind.ROWS, ("bob", 6)), frame(8.2, FrameKind.ROWS, ("ada", 3), resume_token="at-4"))


@plant("watches_tell_once")
def a_row_is_told_twice(h: History) -> None:
    tell(h, 3, h.watched[0].frames[3], h.watched[0].frames[3])


@plant("watches_tell_once")
def a_row_of_before_the_resume_token_is_told_again(h: History) -> None:
    tell(h, 6, frame(6.4, FrameKind.ROWS, ("ada", 5), ("bob", 6), resume_token="at-6"))


@plant("watches_are_ordered")
def changes_are_told_in_the_wrong_order(h: History) -> None:
    told = h.watched[0].frames
    wrong = frame(6.4, FrameKind.ROWS, ("bob", 6), ("ada", 5), resume_token="at-6")
    change(h.watched, 0, frames=(*told[:3], wrong, *told[7:]))


@plant("watches_are_ordered")
def a_change_comes_after_its_cut(h: History) -> None:
    tell(h, 8, h.watched[0].frames[9], frame(8.6, FrameKind.ROWS, ("ada", 8), resume_token="at-8"))


@plant("watches_tell_the_truth")
def a_row_is_told_under_another_position(h: History) -> None:
    rows = (("ada", 7, row("users", "ada", 8)),)
    tell(h, 8, WatchFrame(at=8.2, kind=FrameKind.ROWS, rows=rows, resume_token="at-8"))


@plant("watches_tell_the_truth")
def a_row_is_told_as_it_was_before(h: History) -> None:
    rows = (("ada", 8, row("users", "ada", 5)),)
    tell(h, 8, WatchFrame(at=8.2, kind=FrameKind.ROWS, rows=rows, resume_token="at-8"))


@plant("watches_tell_the_truth")
def a_row_is_told_that_nobody_asked_for(h: History) -> None:
    change(h.watched, 0, keys=frozenset({"ada"}))


@plant("watches_begin_anew_for_a_cause")
def a_watch_is_reset_without_a_cause(h: History) -> None:
    reset = frame(8.6, FrameKind.RESET, reason="RESET_REASON_OVERFLOW")
    again = frame(8.7, FrameKind.ROWS, ("ada", 8), ("bob", 6))
    tell(h, 9, reset, again, frame(8.8, FrameKind.CAUGHT_UP, resume_token="at-8"))


@plant("watches_begin_anew_for_a_cause")
def a_watch_catches_up_twice(h: History) -> None:
    caught_up = frame(8.5, FrameKind.CAUGHT_UP, resume_token="at-8")
    tell(h, 9, caught_up, caught_up)


@plant("watches_begin_anew_for_a_cause")
def a_resume_token_is_refused_without_a_cause(h: History) -> None:
    tell(h, 9, frame(8.5, FrameKind.REFUSED, reason="RESUME_TOKEN_EXPIRED"))


# What is stored.


def without(stored: Stored, view: str, key: str) -> dict[str, Any]:
    rows = {name: dict(its) for name, its in stored.rows.items()}
    del rows[view][key]
    return rows


@plant("views_equal_the_fold")
def a_projection_skips_an_event(h: History) -> None:
    change(h.stored, 2, rows={**h.stored[2].rows, "users": {**h.stored[2].rows["users"], **lying(5).rows["users"]}})


@plant("views_equal_the_fold")
def a_projection_folds_an_event_twice(h: History) -> None:
    twice = User.FromString(h.stored[2].rows["users"]["ada"].content or b"")
    twice.login_count += 1
    rows = {"ada": replace(h.stored[2].rows["users"]["ada"], content=twice.SerializeToString(deterministic=True))}
    change(h.stored, 2, rows={**h.stored[2].rows, "users": {**h.stored[2].rows["users"], **rows}})


@plant("views_equal_the_fold")
def a_checkpoint_comes_before_its_rows(h: History) -> None:
    change(h.stored, 1, rows=lying(3).rows)


@plant("views_equal_the_fold")
def rows_come_before_their_checkpoint(h: History) -> None:
    change(h.stored, 1, rows=lying(8).rows)


@plant("views_equal_the_fold")
def a_row_is_missing(h: History) -> None:
    change(h.stored, 2, rows=without(h.stored[2], "users", "bob"))


@plant("views_equal_the_fold")
def a_row_has_the_wrong_position(h: History) -> None:
    ada = replace(h.stored[2].rows["users"]["ada"], position=7)
    change(h.stored, 2, rows={**h.stored[2].rows, "users": {**h.stored[2].rows["users"], "ada": ada}})


@plant("views_equal_the_fold")
def a_column_is_old(h: History) -> None:
    rows = h.stored[2].rows
    ada = rows["user_summaries"]["ada"]
    ada = replace(ada, columns=("eve", *ada.columns[1:]))
    change(h.stored, 2, rows={**rows, "user_summaries": {**rows["user_summaries"], "ada": ada}})


@plant("views_equal_the_fold")
def a_checkpoint_is_of_another_log(h: History) -> None:
    change(h.stored, 2, event_id="event-of-another-log")


@plant("checkpoints_go_forward")
def a_checkpoint_goes_back(h: History) -> None:
    change(h.stored, 0, taken=100.0)


@plant("everything_is_applied_in_the_end")
def a_checkpoint_stands_still(h: History) -> None:
    h.final["products"] = 7


@pytest.mark.parametrize(
    ("check", "function"), [(check, f) for check, _, f in PLANTS], ids=[name for _, name, _ in PLANTS]
)
def test_a_planted_bug_is_seen(check: str, function: Plant) -> None:
    planted = history()
    function(planted)
    assert check in failed_checks(planted)


def test_every_check_has_seen_a_planted_bug() -> None:
    assert {check for check, _, _ in PLANTS} == set(check_names())


def test_spans_overlap() -> None:
    assert overlap([(0, 3), (6, 9)], [(2, 6), (8, 20)]) == [(2, 3), (6, 6), (8, 9)]
    assert overlap([(0, 3)], [(4, 5)]) == []
