"""Times: every one that its type forbids is reported, at any depth of a message."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from diptych.contract.timestamps import malformed_times
from diptych.v1.commands_pb2 import CommandContext
from shop.v1.user_commands_pb2 import RegisterUserRequest, UpdateUserProfileRequest

_FIELD = descriptor_pb2.FieldDescriptorProto


def _tree() -> type[Any]:
    """A message with times in it, in a list of it, in itself, and in a map."""
    file = descriptor_pb2.FileDescriptorProto(name="times/v1/times.proto", package="times.v1", syntax="proto3")
    file.dependency.extend(["google/protobuf/timestamp.proto", "google/protobuf/duration.proto"])
    tree = file.message_type.add(name="Tree")
    one, many = _FIELD.LABEL_OPTIONAL, _FIELD.LABEL_REPEATED
    entry = tree.nested_type.add(name="ByNameEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=_FIELD.TYPE_STRING, label=one)
    entry.field.add(name="value", number=2, type=_FIELD.TYPE_MESSAGE, label=one, type_name=".google.protobuf.Timestamp")
    for number, (name, label, type_name) in enumerate(
        [
            ("time", one, ".google.protobuf.Timestamp"),
            ("times", many, ".google.protobuf.Timestamp"),
            ("span", one, ".google.protobuf.Duration"),
            ("child", one, ".times.v1.Tree"),
            ("children", many, ".times.v1.Tree"),
            ("by_name", many, ".times.v1.Tree.ByNameEntry"),
        ],
        1,
    ):
        tree.field.add(name=name, number=number, type=_FIELD.TYPE_MESSAGE, label=label, type_name=type_name)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("times.v1.Tree"))


Tree = _tree()


@pytest.mark.parametrize(
    "time",
    [
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=-62_135_596_801),
    ],
)
def test_timestamp_out_of_range_is_malformed(time: Timestamp) -> None:
    assert [path for path, _ in malformed_times(Tree(time=time))] == ["time"]


@pytest.mark.parametrize(
    "span",
    [
        Duration(seconds=1, nanos=-1),
        Duration(seconds=-1, nanos=1),
        Duration(nanos=1_000_000_000),
        Duration(nanos=-1_000_000_000),
        Duration(seconds=315_576_000_001),
        Duration(seconds=-315_576_000_001),
    ],
)
def test_duration_out_of_range_is_malformed(span: Duration) -> None:
    assert [path for path, _ in malformed_times(Tree(span=span))] == ["span"]


def test_times_in_range_are_accepted() -> None:
    tree = Tree(
        time=Timestamp(seconds=253_402_300_799, nanos=999_999_999),
        times=[Timestamp(seconds=-62_135_596_800), Timestamp()],
        span=Duration(seconds=-315_576_000_000, nanos=-999_999_999),
    )
    assert malformed_times(tree) == []


def test_every_malformed_time_is_reported_with_its_full_path() -> None:
    bad = Timestamp(nanos=-1)
    tree = Tree(
        times=[Timestamp(), bad],
        child=Tree(time=bad),
        children=[Tree(), Tree(child=Tree(times=[bad]), span=Duration(seconds=1, nanos=-1))],
    )
    assert sorted(path for path, _ in malformed_times(tree)) == [
        "child.time",
        "children[1].child.times[0]",
        "children[1].span",
        "times[1]",
    ]


def test_times_in_maps_are_not_checked() -> None:
    tree = Tree()
    tree.by_name["x"].nanos = -1
    assert malformed_times(tree) == []
    assert malformed_times(UpdateUserProfileRequest(preferences={"a": "b"})) == []


def test_message_without_times_has_no_malformed_ones() -> None:
    assert malformed_times(RegisterUserRequest()) == []
    context = CommandContext(issue_time=Timestamp(nanos=-1))
    assert [path for path, _ in malformed_times(RegisterUserRequest(context=context))] == ["context.issue_time"]
