"""Types that a server describes by reflection, as the commands print them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionResponse

from diptych.cli.events import event_fields
from diptych.cli.reflected_types import ReflectedTypes
from diptych.v1.events_pb2 import RecordedEvent

_FIELD = descriptor_pb2.FieldDescriptorProto


class Server:
    """A server whose pool has a type that this process does not have, as its channel."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        timestamp = descriptor_pb2.FileDescriptorProto()
        timestamp_pb2.DESCRIPTOR.CopyToProto(timestamp)
        file = descriptor_pb2.FileDescriptorProto(
            name="bank/v1/events.proto", package="bank.v1", syntax="proto3", dependency=[timestamp.name]
        )
        message = file.message_type.add(name="MoneyDeposited")
        message.field.add(name="iban", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
        message.field.add(
            name="value_time",
            number=2,
            type=_FIELD.TYPE_MESSAGE,
            type_name=".google.protobuf.Timestamp",
            label=_FIELD.LABEL_OPTIONAL,
        )
        self.files = [file, timestamp]  # An importing file comes before the imported one.
        pool = descriptor_pool.DescriptorPool()
        for one in reversed(self.files):
            pool.Add(one)
        self.deposited: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("bank.v1.MoneyDeposited"))

    def stream_stream(self, method: str, **serializers: Any) -> Any:
        """Return the rpc of reflection."""

        async def rpc(requests: AsyncIterator[Any], timeout: float) -> AsyncIterator[ServerReflectionResponse]:
            async for request in requests:
                self.calls.append(request.file_containing_symbol)
                answer = ServerReflectionResponse()
                if request.file_containing_symbol == "bank.v1.MoneyDeposited":
                    files = answer.file_descriptor_response.file_descriptor_proto
                    files.extend(file.SerializeToString() for file in self.files)
                else:
                    answer.error_response.error_message = "Symbol not found!"
                yield answer

        return rpc


def packed(name: str, value: bytes) -> AnyMessage:
    return AnyMessage(type_url=f"type.googleapis.com/{name}", value=value)


async def test_bug_event_of_an_unknown_domain_was_printed_as_bytes() -> None:
    server = Server()
    deposited = server.deposited(iban="DE1")
    deposited.value_time.seconds = 1
    types = ReflectedTypes(cast("Any", server), "command server at A")
    for position in (1, 2):
        event = RecordedEvent(position=position, event=packed("bank.v1.MoneyDeposited", deposited.SerializeToString()))
        assert await event_fields(event, types) == {
            "position": str(position),
            "event": {
                "@type": "type.googleapis.com/bank.v1.MoneyDeposited",
                "iban": "DE1",
                "valueTime": "1970-01-01T00:00:01Z",
            },
        }
    row = packed("bank.v1.MoneyDeposited", server.deposited(iban="DE2").SerializeToString())
    assert await types.packed_fields(row) == {"iban": "DE2"}
    assert server.calls == ["bank.v1.MoneyDeposited"]


async def test_event_that_the_server_does_not_describe_is_printed_as_bytes_with_the_cause(
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = Server()
    types = ReflectedTypes(cast("Any", server), "command server at A")
    for _ in range(2):
        fields = await event_fields(RecordedEvent(event=packed("bank.v1.Gone", b"abc")), types)
        assert fields == {"event": {"@type": "type.googleapis.com/bank.v1.Gone", "value": "YWJj"}}
    printed = capsys.readouterr().err
    assert (
        printed.count("bank.v1.Gone is printed as bytes in base64: the command server at A does not describe it") == 1
    )
    assert "(Symbol not found!)" in printed
