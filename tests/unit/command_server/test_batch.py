"""Batches: commands that are decided together and recorded in one commit, on a real store with the shop's domain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from google.type.money_pb2 import Money
from hypothesis import given, settings
from hypothesis import strategies as st

from command_server.batch import Batch
from command_server.state_cache import StateCache
from command_server.store.records import Decided, Loaded, NewEvent, Reads, Request, StreamHead
from command_server.submission import Accepted
from diptych import Aggregate, Deciding
from diptych.contract.reasons import InternalError, RequestIdReused, VersionConflict
from diptych.domain.aggregate import AggregateRef
from diptych.domain.loading import LoadedDomain
from diptych.domain.refusal import Refusal
from diptych.v1.events_pb2 import RecordedEvent
from shop.refusals import EmailTaken, OrderExists, UnknownUser, UserDeactivated, UserExists, UserNotFound
from shop.v1.order_commands_pb2 import ImportOrderRequest
from shop.v1.order_events_pb2 import OrderImported
from shop.v1.product_commands_pb2 import AdjustStockRequest
from shop.v1.user_commands_pb2 import (
    ReactivateUserRequest,
    RecordLoginRequest,
    RegisterUserRequest,
    UpdateUserProfileRequest,
)
from shop.v1.user_events_pb2 import UserRegistered
from tests.support.batch_desk import (
    NOW,
    SHOP,
    Desk,
    accepted,
    create,
    deactivate,
    email,
    login,
    order,
    register,
    with_aggregate,
)

# Request ids.


async def test_a_request_id_takes_effect_once_when_one_batch_has_it_three_times(desk: Desk) -> None:
    first, second, third = map(accepted, await desk.batch(*[register("ada", request_id="r")] * 3))
    assert not first.duplicate
    assert second == third == first._replace(duplicate=True)
    assert await desk.kinds() == ["UserRegistered"]


async def test_a_repeat_has_the_first_outcome_in_a_later_batch_and_after_a_restart(desk: Desk) -> None:
    [first] = map(accepted, await desk.batch(register("ada", request_id="r")))
    await desk.batch(login("ada"))
    for _ in range(2):
        assert await desk.batch(register("ada", request_id="r")) == [first._replace(duplicate=True)]
        desk.forget()
    assert await desk.kinds() == ["UserRegistered", "LoginRecorded"]


async def test_a_refused_command_is_not_remembered_under_its_request_id(desk: Desk) -> None:
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


async def test_a_repeat_is_recognised_when_its_context_differs(desk: Desk) -> None:
    await desk.batch(register("ada", request_id="r"))
    again = register("ada", request_id="r")
    again.context.correlation_id = "elsewhere"
    again.context.issue_time.GetCurrentTime()
    assert accepted((await desk.batch(again))[0]).duplicate


async def test_a_repeat_has_the_generated_id_of_the_first_command(desk: Desk) -> None:
    first, second = map(accepted, await desk.batch(*[register("", request_id="r")] * 2))
    [third] = map(accepted, await desk.batch(register("", request_id="r")))
    assert first.aggregate == second.aggregate == third.aggregate
    assert len(first.aggregate.id) == 36
    assert (second.duplicate, third.duplicate) == (True, True)


async def test_a_command_without_a_request_id_takes_effect_each_time(desk: Desk) -> None:
    await desk.batch(register("ada"))
    outcomes = await desk.batch(login("ada"), login("ada"))
    assert [accepted(one).version for one in outcomes] == [2, 3]


# Versions.


async def test_an_expected_version_is_compared_with_the_version_in_the_batch(desk: Desk) -> None:
    outcomes = await desk.batch(
        register("ada", expected=0),
        login("ada", expected=1),
        login("ada", expected=1),
        login("ada", expected=2),
    )
    assert [accepted(outcomes[index]).version for index in (0, 1, 3)] == [1, 2, 3]
    assert outcomes[2] == VersionConflict(aggregate="user/ada", expected_version=1, actual_version=2)


async def test_an_existing_id_is_refused_and_conflicts_when_version_0_is_expected(desk: Desk) -> None:
    await desk.batch(register("ada"))
    outcomes = await desk.batch(register("ada"), register("ada", expected=0), login("ben", expected=3))
    assert outcomes == [
        UserExists(user_id="ada"),
        VersionConflict(aggregate="user/ada", expected_version=0, actual_version=1),
        VersionConflict(aggregate="user/ben", expected_version=3, actual_version=0),
    ]


@pytest.mark.parametrize("together", [True, False])
async def test_a_repeat_has_its_first_outcome_when_its_expected_version_is_stale(desk: Desk, together: bool) -> None:
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
async def test_a_command_without_events_has_the_stream_head_and_is_remembered(desk: Desk, together: bool) -> None:
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


async def test_a_command_without_events_has_the_greatest_position_of_all_streams_it_read(tmp_path: Path) -> None:
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


# Refusals.


async def test_a_refusal_has_the_greatest_position_of_all_streams_it_was_decided_on(desk: Desk) -> None:
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


# Other aggregates.


async def test_reads_of_other_aggregates_include_earlier_commands_of_the_batch(desk: Desk) -> None:
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


async def test_an_exception_in_a_decider_fails_only_its_own_command(tmp_path: Path) -> None:
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


def refused(outcome: Accepted | Refusal) -> Refusal:
    assert isinstance(outcome, Refusal), outcome
    return outcome


@pytest.mark.parametrize("result", [None, (), 0, OrderImported(), [None], iter(())])
async def test_bug_decider_that_returned_none_was_accepted(tmp_path: Path, result: Any) -> None:
    shop = SHOP.domain.aggregates["user"]
    users: Aggregate[Any] = Aggregate("user", initial=shop.initial, id="user_id")
    users.evolvers.update(shop.evolvers)
    users.decides(RegisterUserRequest)(lambda state, command, at: result)
    async with Desk(tmp_path, domain=with_aggregate(users)) as desk:
        [outcome] = await desk.batch(register("ada", request_id="r-1"))
        if result == ():
            assert accepted(outcome).version == 0
            return
        refusal = refused(outcome)
        assert refusal == InternalError(request_id="r-1")
        assert "return a list of event" in str(refusal.__cause__)
        assert "test_batch.py:" in str(refusal.__cause__)
        assert await desk.events() == []


async def test_evolver_that_returns_none_fails_its_command(tmp_path: Path) -> None:
    shop = SHOP.domain.aggregates["user"]
    users: Aggregate[Any] = Aggregate("user", initial=shop.initial, id="user_id")
    users.deciders.update(shop.deciders)
    users.evolves(UserRegistered)(lambda state, event: None)
    for binding in users.deciders.values():
        users.deciders[binding.command.DESCRIPTOR.full_name] = binding._replace(aggregate=users)
    async with Desk(tmp_path, domain=with_aggregate(users)) as desk:
        [outcome] = await desk.batch(register("ada", request_id="r-1"))
        refusal = refused(outcome)
        assert refusal == InternalError(request_id="r-1")
        assert "returned None; return the next state of user" in str(refusal.__cause__)
        assert await desk.events() == []


async def test_a_snapshot_that_cannot_be_encoded_fails_only_its_own_command(tmp_path: Path) -> None:
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


async def test_a_stream_whose_events_cannot_be_evolved_fails_only_its_own_commands(desk: Desk) -> None:
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
def test_outcomes_and_log_do_not_depend_on_the_size_of_batches(
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
