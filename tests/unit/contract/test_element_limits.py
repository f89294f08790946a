"""The work of judging one request is bounded, whatever fills it up to the limit of a message."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from diptych.contract.element_limits import ELEMENTS_MAX, TOTAL_MAX, excess_elements
from diptych.contract.reasons import VIOLATIONS_MAX, InvalidRequest, MalformedMessage
from diptych.contract.validation import parse
from diptych.contract.wire import varint
from diptych.internal.v1 import feed_pb2, log_pb2  # noqa: F401, registers its messages
from diptych.v1 import commands_pb2, events_pb2, processes_pb2, projections_pb2, read_model_pb2
from library.v1 import command_service_pb2 as library_commands_pb2
from shop.v1 import command_service_pb2, query_service_pb2
from shop.v1.order_commands_pb2 import PlacedItem, PlaceOrderRequest

MESSAGE_BYTES = 4 << 20
CPU_SECONDS_MAX = 2.0
MEMORY_MIB_MAX = 400
DEPTH = 4

FILES = (
    commands_pb2,
    events_pb2,
    processes_pb2,
    projections_pb2,
    read_model_pb2,
    library_commands_pb2,
    command_service_pb2,
    query_service_pb2,
)


def requests() -> list[Descriptor]:
    """Return the request type of every rpc of the engine, the shop and the library."""
    return list(
        {
            method.input_type.full_name: method.input_type
            for module in FILES
            for service in module.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        }.values()
    )


def length_delimited(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def floods(kind: Descriptor, depth: int = DEPTH) -> Iterator[tuple[str, bytes]]:
    """Yield the path of every field of a type, and a message filled with the cheapest elements of that field."""
    for field in kind.fields:
        if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES) and not field.is_repeated:
            yield field.name, length_delimited(field.number, b"a" * (MESSAGE_BYTES - 16))
        elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE):
            element = length_delimited(field.number, b"")
            yield field.name, element * (MESSAGE_BYTES // len(element))
        elif field.is_repeated:
            yield field.name, length_delimited(field.number, b"\1" * (MESSAGE_BYTES - 16))
        if field.message_type is not None and depth:
            for path, content in floods(field.message_type, depth - 1):
                yield f"{field.name}.{path}", length_delimited(field.number, content)[: MESSAGE_BYTES + 64]


@pytest.mark.parametrize("kind", requests(), ids=lambda kind: kind.full_name)
def test_request_is_judged_in_bounded_work_when_one_field_fills_the_message(kind: Descriptor) -> None:
    request = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(kind.full_name))
    for path, data in floods(kind):
        memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with contextlib.suppress(InvalidRequest, MalformedMessage):
            parse(request, data)
        assert time.process_time() - start < CPU_SECONDS_MAX, path
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEMORY_MIB_MAX << 10, path


def test_bug_two_million_empty_items_took_twelve_seconds_and_a_gibibyte() -> None:
    number = PlaceOrderRequest.DESCRIPTOR.fields_by_name["items"].number
    data = length_delimited(number, b"") * (MESSAGE_BYTES // 2)
    start = time.process_time()
    with pytest.raises(InvalidRequest) as raised:
        parse(PlaceOrderRequest, data)
    assert time.process_time() - start < CPU_SECONDS_MAX
    assert raised.value.rules[0] == ("items", "must have at most 200 elements, and has 2,097,152")
    assert len(raised.value.rules) == VIOLATIONS_MAX
    assert raised.value.violations > VIOLATIONS_MAX


def test_excess_elements_finds_nothing_at_the_limit_of_the_contract() -> None:
    order = PlaceOrderRequest(items=[PlacedItem(product_id="p", quantity=1)] * 200)
    assert excess_elements(order) == []
    assert len(order.items) == 200


def test_excess_elements_applies_the_default_when_the_contract_states_no_limit() -> None:
    message = commands_pb2.ExecuteRequest(commands=[commands_pb2.CommandEnvelope()] * (ELEMENTS_MAX + 1))
    assert [path for path, _ in excess_elements(message)] == ["commands"]
    assert len(message.commands) == ELEMENTS_MAX


def nested(fields: int) -> Message:
    """Return a descriptor set of several files with `ELEMENTS_MAX` dependencies each: repeated within repeated."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

    return FileDescriptorSet(file=[FileDescriptorProto(dependency=["d"] * ELEMENTS_MAX)] * fields)


def test_excess_elements_refuses_the_whole_when_nested_fields_multiply() -> None:
    assert excess_elements(nested(TOTAL_MAX // ELEMENTS_MAX - 1)) == []
    assert [path for path, _ in excess_elements(nested(TOTAL_MAX // ELEMENTS_MAX + 1))] == [""]
