"""Unary commands: results, request ids, expected versions, refusals and limits."""

from __future__ import annotations

import uuid
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from diptych.contract.token import Token
from diptych.v1.commands_pb2 import CommandContext
from diptych.v1.events_pb2 import (
    GetPositionRequest,
    ReadStreamRequest,
)
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest
from shop.v1.user_commands_pb2 import (
    DeactivateUserRequest,
    UpdateUserProfileRequest,
)
from tests.support.command_calls import (
    Answer,
    Client,
)
from tests.support.shop_commands import (
    ENGINE,
    GET_POSITION,
    READ_STREAM,
    REGISTERED,
    SUBSCRIBE,
    ended,
    head_of,
    login,
    register,
    stream_of,
    token_at,
    user,
)


async def test_a_command_answers_with_its_result_and_its_token(client: Client, me: str) -> None:
    first = await client.command(register(me))
    second = await client.command(login(me))
    assert first.result.aggregate == user(me)
    assert (first.result.version, second.result.version) == (1, 2)
    assert not first.result.duplicate
    assert first.token == first.result.token < second.result.token == second.token
    [registered, logged_in] = await stream_of(client, me)
    assert Token.parse(first.token).position == registered.position
    assert Token.parse(second.token).position == logged_in.position


async def test_an_event_has_the_metadata_of_its_command(client: Client, me: str) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    issued = Timestamp(seconds=1_900_000_000, nanos=5)
    command = register(me, request_id=f"r-{me}", causation_id="cause", issue_time=issued)
    await client.command(command, metadata=[("traceparent", trace)])
    await client.command(login(me, correlation_id="talk"), metadata=[("traceparent", "nonsense")])
    registered, logged_in = await stream_of(client, me)
    assert registered.metadata.request_id == registered.metadata.correlation_id == f"r-{me}"
    assert (registered.metadata.causation_id, registered.metadata.traceparent) == ("cause", trace)
    assert registered.metadata.issue_time == issued
    assert (logged_in.metadata.correlation_id, logged_in.metadata.traceparent) == ("talk", "")
    assert uuid.UUID(registered.event_id).version == 7
    assert registered.event.type_url.endswith(REGISTERED)


async def test_a_request_id_in_a_message_or_in_metadata_is_the_same(client: Client, me: str) -> None:
    metadata = [("diptych-request-id", f"r-{me}")]
    first = await client.command(register(me), metadata=metadata)
    again = await client.command(register(me, request_id=f"r-{me}"))
    assert again.result.duplicate
    assert (again.result.version, again.result.token) == (1, first.result.token)
    other = await client.command(login(me), metadata=metadata)
    assert other.reason == ("FAILED_PRECONDITION", ENGINE, "REQUEST_ID_REUSED")
    assert other.metadata == {"request_id": f"r-{me}"}
    of_the_message = await client.command(login(me, request_id=f"other-{me}"), metadata=metadata)
    assert of_the_message.result.version == 2
    assert (await stream_of(client, me))[1].metadata.request_id == f"other-{me}"


@pytest.mark.parametrize("request_id", ["with space", "x" * 129])
async def test_a_bad_request_id_is_refused_in_message_and_metadata(client: Client, me: str, request_id: str) -> None:
    in_metadata = await client.command(register(me), metadata=[("diptych-request-id", request_id)])
    in_message = await client.command(register(me, request_id=request_id))
    for answer in (in_metadata, in_message):
        assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "INVALID_REQUEST")
        assert answer.fields == ["context.request_id"]


async def test_a_generated_id_is_returned_again_for_a_repeat(client: Client) -> None:
    command = register("", request_id=uuid.uuid4().hex)
    first = await client.command(command)
    again = await client.command(command)
    assert uuid.UUID(first.result.aggregate.id).version == 7
    assert again.result.aggregate == first.result.aggregate
    assert again.result.duplicate


async def test_a_stale_expected_version_is_a_conflict_with_both_versions(client: Client, me: str) -> None:
    await client.command(register(me))
    answer = await client.command(login(me, expected_version=7))
    assert answer.reason == ("ABORTED", ENGINE, "VERSION_CONFLICT")
    assert answer.metadata == {"aggregate": f"user/{me}", "expected_version": "7", "actual_version": "1"}
    assert (await client.command(register(me, expected_version=0))).reason[2] == "VERSION_CONFLICT"
    repeated = login(me, expected_version=1, request_id=f"r-{me}")
    first = await client.command(repeated)
    await client.command(login(me))
    assert (await client.command(repeated)).result.token == first.result.token


async def test_a_command_that_records_nothing_returns_the_current_version_and_token(client: Client, me: str) -> None:
    await client.command(register(me))
    first = await client.command(DeactivateUserRequest(user_id=me))
    again = await client.command(DeactivateUserRequest(user_id=me, context=CommandContext(request_id=f"r-{me}")))
    repeat = await client.command(DeactivateUserRequest(user_id=me, context=CommandContext(request_id=f"r-{me}")))
    assert (again.result.version, again.result.token, again.result.duplicate) == (2, first.result.token, False)
    assert (repeat.result.version, repeat.result.token, repeat.result.duplicate) == (2, first.result.token, True)


async def test_a_domain_refusal_has_its_reason_and_values(client: Client, me: str) -> None:
    first = await client.command(register(me))
    exists = await client.command(register(me))
    assert exists.reason == ("ALREADY_EXISTS", "shop.v1", "USER_EXISTS")
    assert exists.metadata == {"user_id": me}
    assert me in exists.message
    assert exists.token == first.token
    taken = await client.command(register(f"{me}-2", email=f"{me.upper()}@EXAMPLE.com"))
    assert taken.reason == ("ALREADY_EXISTS", "shop.v1", "EMAIL_TAKEN")
    missing = await client.command(login(f"{me}-3"))
    assert missing.reason == ("NOT_FOUND", "shop.v1", "USER_NOT_FOUND")


async def test_the_greatest_token_presented_comes_back_if_nothing_later_was_written(client: Client, me: str) -> None:
    first = await client.command(register(me))
    head, identity = await head_of(client)
    later = token_at(identity, head + 1_000_000)
    presented = [("diptych-token", first.token), ("diptych-token", later)]
    malformed_command = await client.call("shop.v1.CommandService/RegisterUser", b"\xff", metadata=presented)
    for answer in (
        await client.command(login(me), metadata=presented),
        await client.command(login("nobody"), metadata=presented),
        await client.command(register("a b"), metadata=presented),
        malformed_command,
        await client.call(READ_STREAM, ReadStreamRequest(aggregate=user(me)), metadata=presented),
        await client.call(READ_STREAM, ReadStreamRequest(), metadata=presented),
        await client.call(GET_POSITION, GetPositionRequest(aggregate=user(me), version=1), metadata=presented),
        await Answer.of(await ended(client.stream(SUBSCRIBE, b"\xff", metadata=presented))),
    ):
        assert answer.token == later, answer.message
    earlier = await client.command(login(me), metadata=[("diptych-token", first.token)])
    assert earlier.token == earlier.result.token > first.token


async def test_a_token_of_another_log_is_not_returned(client: Client, me: str) -> None:
    await client.command(register(me))
    _, identity = await head_of(client)
    own = token_at(identity, 0)
    bad = [own[:-1] + "~", own[:12] + "Z" * 20, "V" * 32, "x", str(Token(b"\xff" * 8, 9, 9))]
    answer = await client.command(login(me), metadata=[("diptych-token", value) for value in bad])
    assert answer.token == answer.result.token
    refused = await client.command(login("nobody"), metadata=[("diptych-token", value) for value in bad])
    assert refused.token == own


async def test_bytes_that_are_no_message_are_malformed(client: Client) -> None:
    answer = await client.call("shop.v1.CommandService/RegisterUser", b"\xff\xff")
    assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "MALFORMED_MESSAGE")
    assert answer.metadata == {"type": "shop.v1.RegisterUserRequest"}
    assert Token.parse(answer.token).position == 0


async def test_all_violations_are_listed_with_their_paths(client: Client) -> None:
    item = ImportedItem(product_id="tea", quantity=1, unit_price=Money(currency_code="GBP"))
    bad = ImportedItem(product_id="tea", unit_price=Money(currency_code="gbp"))
    command = ImportOrderRequest(
        context=CommandContext(expected_version=-1, issue_time=Timestamp(nanos=-1)),
        order_id="a/b",
        order_time=Timestamp(seconds=1),
        items=[item, bad],
    )
    answer = await client.command(command)
    assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "INVALID_REQUEST")
    assert answer.fields == sorted(
        ["context.expected_version", "context.issue_time", "order_id", "items[1].quantity", "items[1].unit_price"]
    )
    assert answer.metadata == {"violations": "5"}
    message_rule = UpdateUserProfileRequest(user_id="ada")
    message_rule.update_mask.paths.append("email")
    assert (await client.command(message_rule)).fields == [""]


async def test_thousands_of_violations_fit_into_a_status(client: Client) -> None:
    command = ImportOrderRequest(order_time=Timestamp(seconds=1), items=[ImportedItem()] * 2000)
    answer = await client.command(command)
    assert answer.reason == ("INVALID_ARGUMENT", ENGINE, "INVALID_REQUEST")
    assert answer.metadata == {"violations": "6000"}
    assert "items[0].product_id" in answer.fields


@pytest.mark.parametrize("method", ["shop.v1.CommandService/Nothing", "no.Such/Thing", "diptych.v1.EventService/x"])
async def test_an_unknown_method_is_refused_with_a_reason(client: Client, method: str) -> None:
    answer = await client.call(method, b"")
    assert answer.reason == ("UNIMPLEMENTED", ENGINE, "METHOD_UNKNOWN")
    assert answer.metadata == {"method": f"/{method}"}
    streaming: Any = client.channel.stream_stream(f"/{method}")(timeout=20)
    assert (await Answer.of(await ended(streaming))).reason == ("UNIMPLEMENTED", ENGINE, "METHOD_UNKNOWN")


async def test_a_message_over_the_limit_is_refused(client: Client, me: str) -> None:
    answer = await client.call("shop.v1.CommandService/RegisterUser", b"\x00" * ((4 << 20) + 1))
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await client.command(register(me))).result.version == 1, "the connection goes on"
