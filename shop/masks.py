"""Fields that an update writes, by its `update_mask`."""

from collections.abc import Sequence
from typing import Any, Protocol

from google.protobuf.field_mask_pb2 import FieldMask


class Update(Protocol):
    """A command with an `update_mask`."""

    @property
    def update_mask(self) -> FieldMask:
        """Fields to write; an empty mask writes all fields that are not empty."""
        ...


def fields_to_write(command: Update, fields: Sequence[str]) -> list[str]:
    """Return the fields that the command's `update_mask` names, or those that are not empty if it names none."""
    named = set(command.update_mask.paths)
    if named:
        return [field for field in fields if field in named]
    given: Any = command
    return [field for field in fields if getattr(given, field)]
