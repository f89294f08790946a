"""Batches: what is decided together and recorded in one commit, on a real store with the shop's domain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from hypothesis import given, settings
from hypothesis import strategies as st

from command_server.batch import Batch
from command_server.catalogue import Catalogue
from command_server.dispatch import Caller, Dispatcher
from command_server.state_cache import StateCache
from command_server.store.records import Decided, Loaded, NewEvent, Reads, Request, Snapshot, StreamHead
from command_server.store.sqlite_store import SqliteEventStore
from command_server.submission import Accepted, Submission
from diptych import Aggregate, Deciding, Domain
from diptych.contract.frames import recorded
from diptych.contract.reasons import InternalError, InvalidRequest, RequestIdReused, VersionConflict
from diptych.domain import loading as domains
from diptych.domain.aggregate import AggregateRef
from diptych.domain.loading import LoadedDomain
from diptych.domain.refusal import Refusal
from diptych.v1.commands_pb2 import CommandContext
from diptych.v1.events_pb2 import RecordedEvent
from shop.refusals import EmailTaken, OrderExists, UnknownUser, UserDeactivated, UserExists, UsernameTaken, UserNotFound
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest
from shop.v1.order_events_pb2 import OrderImported
from shop.v1.product_commands_pb2 import AdjustStockRequest, CreateProductRequest
from shop.v1.user_commands_pb2 import (
    DeactivateUserRequest,
    ReactivateUserRequest,
    RecordLoginRequest,
    RegisterUserRequest,
    UpdateUserProfileRequest,
)

SHOP = domains.load("shop")
NOW = datetime(2031, 1, 1, tzinfo=UTC)
PRICE = Money(currency_code="GBP", units=2)


class Desk:
    """Decides batches on a store of its own."""

    def __init__(
        self, folder: Path, *, domain: LoadedDomain = SHOP, snapshot_events: int = 500, exclusive: bool = True
    ) -> None:
        self.store = SqliteEventStore(folder / "log.db", exclusive=exclusive)
        self.domain = domain
        self.catalogue = Catalogue(domain, snapshot_events)
        self.cache = StateCache(1000)
        self._dispatcher = Dispatcher(domain)
        self._batches = 0

    async def __aenter__(self) -> Desk:
        await self.store.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()

    def submission(self, command: Message) -> Submission:
        sent = type(command).FromString(command.SerializeToString())
        method = self.domain.commands[command.DESCRIPTOR.full_name]
        return self._dispatcher.submission(method, sent, Caller())

    async def batch(self, *commands: Message) -> list[Accepted | Refusal]:
        """Decides commands together; returns what became of each."""
        submissions = [self.submission(command) for command in commands]
        await self.decide(submissions)
        return [one.accepted or one.refusal for one in submissions]  # type: ignore[misc]

    async def decide(self, submissions: Sequence[Submission]) -> None:
        self._batches += 1
        batch = Batch(submissions, self.catalogue, self.cache, NOW + timedelta(seconds=self._batches))
        committed = await self.store.commit(batch.reads(), batch.decide)
        batch.finish(committed)
        for one in submissions:
            assert (one.accepted is None) != (one.refusal is None), "a command has one outcome"
            position = one.accepted.position if one.accepted is not None else one.position
            assert 0 <= position <= (await self.store.head()).position

    async def events(self) -> list[RecordedEvent]:
        page = await self.store.read_log(0, events_max=100_000, bytes_max=1 << 30)
        return [recorded(one) for one in page.frames]

    async def kinds(self) -> list[str]:
        return [one.event.type_url.rpartition(".")[2] for one in await self.events()]

    def forget(self) -> None:
        """Loses the state cache, as a restart does."""
        self.cache = StateCache(1000)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with Desk(tmp_path) as desk:
        yield desk


def said(request_id: str = "", expected: int | None = None) -> CommandContext:
    return CommandContext(request_id=request_id, expected_version=expected)


def register(
    user_id: str, email: str = "", request_id: str = "", expected: int | None = None, **fields: Any
) -> RegisterUserRequest:
    return RegisterUserRequest(
        context=said(request_id, expected), user_id=user_id, email=email or f"{user_id or 'x'}@example.com", **fields
    )


def email(user_id: str, address: str, request_id: str = "", expected: int | None = None) -> UpdateUserProfileRequest:
    return UpdateUserProfileRequest(context=said(request_id, expected), user_id=user_id, email=address)


def deactivate(user_id: str, request_id: str = "", expected: int | None = None) -> DeactivateUserRequest:
    return DeactivateUserRequest(context=said(request_id, expected), user_id=user_id)


def login(user_id: str, request_id: str = "", expected: int | None = None) -> RecordLoginRequest:
    return RecordLoginRequest(context=said(request_id, expected), user_id=user_id)


def create(product_id: str) -> CreateProductRequest:
    return CreateProductRequest(product_id=product_id, name=product_id.title(), price=PRICE)


def order(order_id: str, product_id: str, customer_id: str = "", request_id: str = "") -> ImportOrderRequest:
    return ImportOrderRequest(
        context=said(request_id),
        order_id=order_id,
        customer_id=customer_id,
        order_time=Timestamp(seconds=1_700_000_000),
        items=[ImportedItem(product_id=product_id, quantity=1, unit_price=PRICE)],
    )


def accepted(outcome: Accepted | Refusal) -> Accepted:
    assert isinstance(outcome, Accepted), outcome
    return outcome


# Request ids.


async def test_copies_of_one_request_in_one_batch_take_effect_once(desk: Desk) -> None:
    first, second, third = map(accepted, await desk.batch(*[register("ada", request_id="r")] * 3))
    assert not first.duplicate
    assert second == third == first._replace(duplicate=True)
    assert await desk.kinds() == ["UserRegistered"]


async def test_a_repeat_in_a_later_batch_and_after_a_restart_gets_the_first_answer(desk: Desk) -> None:
    [first] = map(accepted, await desk.batch(register("ada", request_id="r")))
    await desk.batch(login("ada"))
    for _ in range(2):
        assert await desk.batch(register("ada", request_id="r")) == [first._replace(duplicate=True)]
        desk.forget()
    assert await desk.kinds() == ["UserRegistered", "LoginRecorded"]


async def test_a_refused_copy_is_not_remembered(desk: Desk) -> None:
    refused, registered, taken = await desk.batch(
        deactivate("ada", request_id="r"), register("ada"), deactivate("ada", request_id="r")
    )
    assert refused == UserNotFound(user_id="ada")
    assert accepted(registered).version == 1
    assert accepted(taken).version == 2
    assert not accepted(taken).duplicate


async def test_a_request_id_of_a_refused_command_is_free_for_another_command(desk: Desk) -> None:
    assert await desk.batch(login("ada", request_id="r")) == [UserNotFound(user_id="ada")]
    assert accepted((await desk.batch(register("ada", request_id="r")))[0]).version == 1


@pytest.mark.parametrize("together", [True, False])
async def test_a_request_id_used_for_another_command_is_refused(desk: Desk, together: bool) -> None:
    commands = [
        register("ada", request_id="r"),
        register("ada", first_name="Ada", request_id="r"),  # Another message of the same type.
        login("ada", request_id="r"),  # Another type.
    ]
    if together:
        outcomes = await desk.batch(*commands)
    else:
        outcomes = [outcome for command in commands for outcome in await desk.batch(command)]
    assert accepted(outcomes[0]).version == 1
    assert outcomes[1:] == [RequestIdReused(request_id="r")] * 2
    assert await desk.kinds() == ["UserRegistered"]


async def test_the_context_does_not_make_another_command_of_it(desk: Desk) -> None:
    await desk.batch(register("ada", request_id="r"))
    again = register("ada", request_id="r")
    again.context.correlation_id = "elsewhere"
    again.context.issue_time.GetCurrentTime()
    assert accepted((await desk.batch(again))[0]).duplicate


async def test_a_generated_id_is_the_same_for_a_repeat(desk: Desk) -> None:
    first, second = map(accepted, await desk.batch(*[register("", request_id="r")] * 2))
    [third] = map(accepted, await desk.batch(register("", request_id="r")))
    assert first.aggregate == second.aggregate == third.aggregate
    assert len(first.aggregate.id) == 36
    assert (second.duplicate, third.duplicate) == (True, True)


async def test_without_a_request_id_every_sending_is_a_command_of_its_own(desk: Desk) -> None:
    await desk.batch(register("ada"))
    outcomes = await desk.batch(login("ada"), login("ada"))
    assert [accepted(one).version for one in outcomes] == [2, 3]


# Versions.


async def test_expected_versions_are_those_that_the_batch_has_come_to(desk: Desk) -> None:
    outcomes = await desk.batch(
        register("ada", expected=0),
        login("ada", expected=1),
        login("ada", expected=1),
        login("ada", expected=2),
    )
    assert [accepted(outcomes[index]).version for index in (0, 1, 3)] == [1, 2, 3]
    assert outcomes[2] == VersionConflict(aggregate="user/ada", expected_version=1, actual_version=2)


async def test_an_existing_id_exists_and_where_none_was_expected_conflicts(desk: Desk) -> None:
    await desk.batch(register("ada"))
    outcomes = await desk.batch(register("ada"), register("ada", expected=0), login("ben", expected=3))
    assert outcomes == [
        UserExists(user_id="ada"),
        VersionConflict(aggregate="user/ada", expected_version=0, actual_version=1),
        VersionConflict(aggregate="user/ben", expected_version=3, actual_version=0),
    ]


@pytest.mark.parametrize("together", [True, False])
async def test_a_repeat_with_a_stale_expected_version_gets_its_first_answer(desk: Desk, together: bool) -> None:
    await desk.batch(register("ada"))
    commands = [login("ada", request_id="r", expected=1), login("ada"), login("ada", request_id="r", expected=1)]
    if together:
        outcomes = await desk.batch(*commands)
    else:
        outcomes = [outcome for command in commands for outcome in await desk.batch(command)]
    assert outcomes[2] == accepted(outcomes[0])._replace(duplicate=True)
    assert accepted(outcomes[0]).version == 2
    assert (await desk.store.head()).position == 3


# Commands without events.


@pytest.mark.parametrize("together", [True, False])
async def test_a_command_without_events_has_the_version_and_last_position_and_is_remembered(
    desk: Desk, together: bool
) -> None:
    await desk.batch(register("ada"), register("ben"))
    commands = [deactivate("ada"), login("ben"), deactivate("ada", request_id="r"), deactivate("ada", request_id="r")]
    if together:
        outcomes = await desk.batch(*commands)
    else:
        outcomes = [outcome for command in commands for outcome in await desk.batch(command)]
    nothing, again = map(accepted, outcomes[2:])
    assert (nothing.version, nothing.position, nothing.duplicate) == (2, 3, False)
    assert again == nothing._replace(duplicate=True)
    [reactivated] = await desk.batch(ReactivateUserRequest(user_id="ada"))
    [repeat] = await desk.batch(deactivate("ada", request_id="r"))
    assert accepted(reactivated).version == 3
    assert repeat == again
    assert (await desk.kinds())[-1] == "UserReactivated"


async def test_a_command_without_events_stands_for_the_latest_of_all_it_read(tmp_path: Path) -> None:
    orders: Aggregate[int] = Aggregate("order", initial=0, id="order_id")

    @orders.decides(ImportOrderRequest, reads=lambda command: [users.ref(command.customer_id)])
    def nothing(state: int, command: ImportOrderRequest, at: Deciding) -> Sequence[OrderImported]:
        if command.country == "nowhere":
            raise UnknownUser(user_id=command.customer_id)
        return []

    users = SHOP.domain.aggregates["user"]
    async with Desk(tmp_path, domain=with_aggregate(orders)) as desk:
        await desk.batch(register("ada"), register("ben"))
        refusing = order("o", "tea", "ada")
        refusing.country = "nowhere"
        # Read from the store; then, in one batch with what changes it, from the batch.
        assert accepted((await desk.batch(order("o", "tea", "ada")))[0])[1:] == (0, 1, False)
        before, _, after = await desk.batch(order("o", "tea", "ada"), login("ada"), order("o", "tea", "ada"))
        assert (accepted(before).position, accepted(after).position) == (1, 3)
        submissions = [desk.submission(refusing), desk.submission(login("ada")), desk.submission(refusing)]
        await desk.decide(submissions)
        assert [submissions[0].position, submissions[2].position] == [3, 4]
        assert submissions[2].refusal == UnknownUser(user_id="ada")


def with_aggregate(replaced: Aggregate[Any]) -> LoadedDomain:
    """The shop with another aggregate in the place of its own of that type."""
    loaded = domains.load("shop")
    aggregates = [replaced if one.type == replaced.type else one for one in SHOP.domain.aggregates.values()]
    loaded.domain = Domain("shop", aggregates=aggregates, projections=[])
    for name in replaced.deciders.keys() & loaded.commands.keys():
        binding = replaced.deciders[name]
        loaded.commands[name] = loaded.commands[name]._replace(binding=binding)
    loaded.codecs = dict(SHOP.codecs)
    return loaded


# Refusals.


async def test_a_refusal_stands_for_the_last_position_of_what_it_was_decided_on(desk: Desk) -> None:
    await desk.batch(register("ada"), register("ben"))
    submissions = [
        desk.submission(command)
        for command in (
            register("ada"),
            register("cleo", email="ben@example.com"),
            login("nobody"),
            login("ada", expected=9),
            deactivate("ada"),
            login("ada"),
        )
    ]
    await desk.decide(submissions)
    assert [one.position for one in submissions[:4]] == [1, 0, 0, 1]
    assert submissions[5].refusal == UserDeactivated(user_id="ada")
    assert submissions[5].position == 3, "that of the event recorded in this very batch"


async def test_a_refused_command_fails_alone(desk: Desk) -> None:
    outcomes = await desk.batch(register("ada"), register("ada"), login("ada"), login("nobody"), login("ada"))
    assert [isinstance(one, Accepted) for one in outcomes] == [True, False, True, False, True]
    assert await desk.kinds() == ["UserRegistered", "LoginRecorded", "LoginRecorded"]
    assert [one.version for one in await desk.events()] == [1, 2, 3]


# Unique values.


@pytest.mark.parametrize("address", ["ada@example.com", "ADA@Example.COM"])
@pytest.mark.parametrize("together", [True, False])
async def test_of_two_with_one_email_the_second_is_refused(desk: Desk, together: bool, address: str) -> None:
    if together:
        _, outcome = await desk.batch(register("ada"), register("ben", email=address))
    else:
        await desk.batch(register("ada"))
        [outcome] = await desk.batch(register("ben", email=address))
    assert outcome == EmailTaken(email="ada@example.com")
    [again] = await desk.batch(register("ben"))
    assert accepted(again).version == 1, "a refused command leaves nothing"


@pytest.mark.parametrize("together", [True, False])
async def test_an_email_given_up_is_free_for_the_next_command(desk: Desk, together: bool) -> None:
    await desk.batch(register("ada"))
    commands = [
        register("ben", email="ada@example.com"),
        email("ada", "new@example.com"),
        register("cleo", email="ada@example.com"),
        register("dan", email="new@example.com"),
    ]
    if together:
        outcomes = await desk.batch(*commands)
    else:
        outcomes = [outcome for command in commands for outcome in await desk.batch(command)]
    assert outcomes[0] == EmailTaken(email="ada@example.com")
    assert accepted(outcomes[1]).version == 2
    assert accepted(outcomes[2]).version == 1
    assert outcomes[3] == EmailTaken(email="new@example.com")


async def test_two_users_cannot_swap_emails_but_can_pass_them_on(desk: Desk) -> None:
    await desk.batch(register("ada"), register("ben"))
    outcomes = await desk.batch(
        email("ada", "ben@example.com"),
        email("ben", "third@example.com"),
        email("ada", "ben@example.com"),
        email("ben", "ada@example.com"),
    )
    assert outcomes[0] == EmailTaken(email="ben@example.com")
    assert [accepted(one).version for one in outcomes[1:]] == [2, 2, 3]
    desk.forget()
    assert await desk.batch(register("x", email="third@example.com"), register("y", email="ada@example.com")) == [
        Accepted(desk.domain.domain.aggregates["user"].ref("x"), 1, 6, False),
        EmailTaken(email="ada@example.com"),
    ]


async def test_a_refusal_by_a_unique_value_leaves_no_change_to_later_commands(desk: Desk) -> None:
    await desk.batch(register("ada", username="ada"), register("ben"))
    change = UpdateUserProfileRequest(user_id="ben", email="free@example.com", username="ADA", first_name="Ben")
    refused, logged_in, renamed, free = await desk.batch(
        change,
        login("ben", expected=1),
        UpdateUserProfileRequest(user_id="ben", first_name="Ben"),
        register("cleo", email="free@example.com"),
    )
    assert refused == UsernameTaken(username="ada")
    assert [accepted(one).version for one in (logged_in, renamed, free)] == [2, 3, 1]
    events = await desk.events()
    assert [one.version for one in events if one.aggregate.id == "ben"] == [1, 2, 3]


async def test_the_case_of_ones_own_email_can_be_changed(desk: Desk) -> None:
    await desk.batch(register("ada"))
    assert accepted((await desk.batch(email("ada", "ADA@example.com")))[0]).version == 2


async def test_a_unique_value_or_id_with_a_nul_harms_nobody_else(desk: Desk) -> None:
    users: Aggregate[Any] = SHOP.domain.aggregates["user"]
    submission = desk.submission(register("ben"))
    submission.command.email = "ada@example.com\0"  # type: ignore[attr-defined]
    other = desk.submission(register("cleo"))
    await desk.decide([submission, other])
    assert isinstance(submission.refusal, InvalidRequest)
    assert other.accepted == (users.ref("cleo"), 1, 1, False)


# Other aggregates.


async def test_reads_of_other_aggregates_see_what_earlier_commands_did(desk: Desk) -> None:
    outcomes = await desk.batch(
        order("o-1", "tea"),
        create("tea"),
        register("ada", first_name="Ada"),
        order("o-1", "tea", "ada"),
        UpdateUserProfileRequest(user_id="ada", first_name="Countess"),
        order("o-2", "tea", "ada"),
        order("o-1", "tea", "ada"),
    )
    assert isinstance(outcomes[0], Refusal)
    assert outcomes[0].reason == "UNKNOWN_PRODUCT"
    assert outcomes[6] == OrderExists(order_id="o-1")
    names = []
    for event in await desk.events():
        imported = OrderImported()
        if event.event.Unpack(imported):
            names.append(imported.customer_name)
    assert names == ["Ada", "Countess"]


# What fails unforeseen.


def failing_users() -> LoadedDomain:
    """The shop, whose users fail on a login of "bad", return an event nobody evolves for "odd", or a wrong type."""
    shop = SHOP.domain.aggregates["user"]
    users: Aggregate[Any] = Aggregate("user", initial=shop.initial, id="user_id")
    users.deciders.update(shop.deciders)
    users.evolvers.update(shop.evolvers)
    users.uniques.extend(shop.uniques)
    del users.deciders[RecordLoginRequest.DESCRIPTOR.full_name]

    @users.decides(RecordLoginRequest)
    def record_login(state: Any, command: RecordLoginRequest, at: Deciding) -> Sequence[Message]:
        known: Any = shop.deciders[RecordLoginRequest.DESCRIPTOR.full_name].decide(state, command, at)
        if command.user_id == "bad":
            raise ZeroDivisionError("planted")
        if command.user_id == "odd":
            return [*known, OrderImported()]
        return list(known)

    return with_aggregate(users)


async def test_an_exception_in_a_decider_fails_that_command_alone(tmp_path: Path) -> None:
    async with Desk(tmp_path, domain=failing_users()) as desk:
        outcomes = await desk.batch(
            register("bad"),
            register("odd"),
            register("ada"),
            login("bad", request_id="r-1"),
            login("odd", request_id="r-2"),
            login("ada"),
            deactivate("bad"),
            deactivate("odd"),
        )
        assert outcomes[3:5] == [InternalError(request_id="r-1"), InternalError(request_id="r-2")]
        assert [accepted(outcomes[index]).version for index in (5, 6, 7)] == [2, 2, 2]
        for user in ("bad", "odd"):
            assert [one.version for one in await desk.events() if one.aggregate.id == user] == [1, 2]


async def test_a_state_that_cannot_be_written_as_a_snapshot_fails_its_command_alone(tmp_path: Path) -> None:
    async with Desk(tmp_path, snapshot_events=2) as desk:
        await desk.batch(register("ada"))
        codec = desk.catalogue.codecs["user"]

        class Broken:
            shape = codec.shape
            decode = codec.decode

            def encode(self, state: object) -> bytes:
                raise TypeError("planted")

        desk.catalogue.codecs = {**desk.catalogue.codecs, "user": Broken()}  # type: ignore[dict-item]
        submissions = [desk.submission(command) for command in (login("ada"), register("ben"), login("ada"))]
        await desk.decide(submissions)
        assert isinstance(submissions[0].refusal, InternalError)
        assert isinstance(submissions[2].refusal, InternalError)
        assert [(one.aggregate.id, one.version) for one in await desk.events()] == [("ada", 1), ("ben", 1)]


async def test_a_stream_whose_events_cannot_be_evolved_harms_no_other(desk: Desk) -> None:
    body = RecordedEvent(version=1, event_id="x")
    body.event.Pack(Money(), type_url_prefix="type.googleapis.com/")
    planted = NewEvent("user/odd", 1, "google.type.Money", body.SerializeToString())
    await desk.store.commit(Reads({}, {}, ()), lambda loaded: Decided(events=[planted]))
    await desk.batch(create("tea"))
    outcomes = await desk.batch(
        login("odd", request_id="r"), register("ada"), order("o", "tea", "odd"), login("odd"), login("ada")
    )
    assert outcomes[0] == InternalError(request_id="r")
    assert isinstance(outcomes[2], InternalError)
    assert isinstance(outcomes[3], InternalError)
    assert [accepted(outcomes[index]).version for index in (1, 4)] == [1, 2]


# Snapshots and the state cache.


async def cold_state(desk: Desk, stream: str, *, snapshots: bool) -> Any:
    """An aggregate's state as a batch that has nothing cached loads it."""
    submission = desk.submission(login(stream.partition("/")[2]))
    batch = Batch([submission], desk.catalogue, StateCache(10), NOW)
    reads = batch.reads()
    if not snapshots:
        reads = reads._replace(shapes={"user": b"another"})
    states: list[Any] = []

    class Enough(Exception):
        pass

    def decide(loaded: Any) -> Decided:
        assert bool(loaded.histories[stream].snapshot) == snapshots
        if snapshots:
            assert len(loaded.histories[stream].frames) < desk.catalogue.snapshot_events
        batch.decide(loaded)
        states.append(batch._overlay.streams[stream].state)
        raise Enough

    with pytest.raises(Enough):
        await desk.store.commit(reads, decide)
    return states[0]


async def test_a_load_from_a_snapshot_is_that_from_all_events(tmp_path: Path) -> None:
    async with Desk(tmp_path, snapshot_events=10) as desk:
        await desk.batch(register("ada", first_name="Ada", username="ada"))
        for number in range(35):
            change = UpdateUserProfileRequest(user_id="ada", bio=f"é {number}", preferences={"n": str(number)})
            await desk.batch(change, login("ada"))
        assert await cold_state(desk, "user/ada", snapshots=True) == await cold_state(desk, "user/ada", snapshots=False)
        desk.forget()
        assert accepted((await desk.batch(login("ada", expected=71)))[0]).version == 72


async def test_a_snapshot_is_written_when_one_batch_jumps_over_several(tmp_path: Path) -> None:
    async with Desk(tmp_path, snapshot_events=3) as desk:
        await desk.batch(register("ada"), *[login("ada")] * 10)
        desk.forget()
        assert accepted((await desk.batch(login("ada")))[0]).version == 12
        assert (await cold_state(desk, "user/ada", snapshots=True)).email == "ada@example.com"


async def test_a_snapshot_of_another_shape_is_ignored(tmp_path: Path) -> None:
    async with Desk(tmp_path, snapshot_events=3) as desk:
        await desk.batch(register("ada"), *[login("ada")] * 4)
        wrong = Snapshot(5, b"another", b"not even JSON")
        await desk.store.commit(Reads({}, {}, ()), lambda loaded: Decided(snapshots={"user/ada": wrong}))
        desk.forget()
        assert accepted((await desk.batch(login("ada")))[0]).version == 6


@pytest.mark.parametrize("entries", [0, 1, 2])
async def test_states_that_were_forgotten_are_read_again(desk: Desk, entries: int) -> None:
    desk.cache = StateCache(entries)
    await desk.batch(*(register(f"u{number}") for number in range(5)))
    for number in range(5):
        outcomes = await desk.batch(login(f"u{number}", expected=1), deactivate(f"u{number}"))
        assert [accepted(one).version for one in outcomes] == [2, 3]
    assert sum(desk.cache.get(f"user/u{number}") is not None for number in range(5)) == entries


async def test_a_state_older_than_the_log_is_not_decided_on(desk: Desk) -> None:
    await desk.batch(register("ada"))
    stale = desk.cache.get("user/ada")
    assert stale is not None
    await desk.batch(deactivate("ada"))
    desk.cache.put("user/ada", *stale)
    assert await desk.batch(login("ada")) == [UserDeactivated(user_id="ada")]


# Several writers.


@asynccontextmanager
async def two_desks(folder: Path) -> AsyncIterator[tuple[Desk, Desk]]:
    """Two servers on one log, each with a state cache of its own."""
    async with Desk(folder, exclusive=False) as one, Desk(folder, exclusive=False) as other:
        yield one, other


async def test_a_request_id_of_another_server_is_a_duplicate_here(tmp_path: Path) -> None:
    async with two_desks(tmp_path) as (one, other):
        [first] = map(accepted, await other.batch(register("ada", request_id="r")))
        repeated, reused, _ = await one.batch(
            register("ada", request_id="r"), login("ada", request_id="r"), register("ben")
        )
        assert repeated == first._replace(duplicate=True)
        assert reused == RequestIdReused(request_id="r")
        assert [(event.position, event.aggregate.id) for event in await one.events()] == [(1, "ada"), (2, "ben")]


async def test_a_unique_value_of_another_server_is_refused_here(tmp_path: Path) -> None:
    async with two_desks(tmp_path) as (one, other):
        await other.batch(register("ada", email="x@example.com"))
        refused, registered = await one.batch(register("ben", email="x@example.com"), register("eve"))
        assert refused == EmailTaken(email="x@example.com")
        assert accepted(registered).version == 1
        await other.batch(email("ada", "y@example.com"))
        assert accepted((await one.batch(register("ben", email="x@example.com")))[0]).version == 1


async def test_a_cached_state_is_read_again_after_events_of_another_server(tmp_path: Path) -> None:
    async with two_desks(tmp_path) as (one, other):
        await one.batch(register("ada"))
        await other.batch(deactivate("ada"))
        assert await one.batch(login("ada")) == [UserDeactivated(user_id="ada")]


async def test_a_batch_that_lost_a_race_refuses_only_the_commands_that_lost(desk: Desk) -> None:
    commands = (
        register("ada", email="x@example.com", request_id="r-1"),
        register("ben", request_id="r-2"),
        register("eve"),
    )
    submissions = [desk.submission(command) for command in commands]
    batch = Batch(submissions, desk.catalogue, desk.cache, NOW)
    batch.reads()
    lost = batch.decide(Loaded({}, {}, {}, dict.fromkeys(("user.email:x@example.com",))))
    assert [one.version for one in lost.events] == [1, 1, 1]

    request = Request(submissions[1].digest, "user/ben", 1, 7)
    holders = {"user.email:x@example.com": "user/zoe", "user.email:ben@example.com": "user/ben"}
    again = batch.decide(Loaded({"user/ben": StreamHead(1, 7)}, {}, {submissions[1].request_key: request}, holders))
    assert submissions[0].refusal == EmailTaken(email="x@example.com")
    assert accepted(submissions[1].accepted) == Accepted(AggregateRef("user", "ben"), 1, 7, True)  # type: ignore[arg-type]
    assert [one.stream for one in again.events] == ["user/eve"]
    assert list(again.requests) == []
    assert again.claims == {"user.email:eve@example.com": "user/eve"}


# The size of batches.

_USERS = st.sampled_from(["a", "b", "c"])
_EMAILS = st.sampled_from(["1@example.com", "2@example.com", "3@EXAMPLE.com", "3@example.com"])
_REQUESTS = st.sampled_from(["", "", "r1", "r2", "r3"])
_EXPECTED = st.sampled_from([None, None, None, 0, 1, 2, 3])
_PRODUCTS = st.sampled_from(["tea", "jam"])
_COMMANDS = st.one_of(
    st.builds(register, _USERS, _EMAILS, _REQUESTS, _EXPECTED),
    st.builds(email, _USERS, _EMAILS, _REQUESTS, _EXPECTED),
    st.builds(deactivate, _USERS, _REQUESTS, _EXPECTED),
    st.builds(login, _USERS, _REQUESTS, _EXPECTED),
    st.builds(lambda user: ReactivateUserRequest(user_id=user), _USERS),
    st.builds(create, _PRODUCTS),
    st.builds(lambda product, delta: AdjustStockRequest(product_id=product, delta=delta), _PRODUCTS, st.just(-1)),
    st.builds(order, st.sampled_from(["o1", "o2"]), _PRODUCTS, st.sampled_from(["", "a", "b"]), _REQUESTS),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(_COMMANDS, max_size=40))
def test_outcomes_and_log_do_not_depend_on_how_commands_were_batched(
    tmp_path_factory: pytest.TempPathFactory, commands: list[Message]
) -> None:
    async def run(size: int) -> tuple[list[Any], list[RecordedEvent]]:
        outcomes: list[Any] = []
        async with Desk(tmp_path_factory.mktemp("log"), snapshot_events=4) as desk:
            if size == 1:
                desk.cache = StateCache(1)
            for start in range(0, len(commands), size):
                submissions = [desk.submission(command) for command in commands[start : start + size]]
                await desk.decide(submissions)
                outcomes += [(one.accepted, one.refusal, one.position) for one in submissions]
            events = await desk.events()
        for event in events:
            event.ClearField("event_id")
            event.ClearField("record_time")
            if event.event.type_url.endswith("LoginRecorded"):
                event.event.ClearField("value")  # It holds the time.
        return [(accepted, refusal, None if accepted else place) for accepted, refusal, place in outcomes], events

    one_by_one = asyncio.run(run(1))
    for size in (3, max(1, len(commands))):
        outcomes, events = asyncio.run(run(size))
        assert outcomes == one_by_one[0]
        assert events == one_by_one[1]
