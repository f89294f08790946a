"""Plain descriptor sets: contracts without their validation rules, for tools that have no `buf/validate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pool

from diptych.contract.generate import RULES_FILE, ContractError, parse, serialize


def without_rules(descriptors: bytes) -> bytes:
    """Return a serialised `FileDescriptorSet` without its validation rules and the imports that only they needed.

    Args:
        descriptors: A serialised `FileDescriptorSet`.

    Raises:
        ContractError: A file uses the rules by other means than options, as a field of such a type.
    """
    files = parse(descriptors)
    imported = {name for file in files.file for name in file.dependency}
    roots = {file.name for file in files.file} - imported
    if not any(RULES_FILE in file.dependency for file in files.file):
        return descriptors
    for file in files.file:
        if RULES_FILE in file.dependency:
            _strip(file)
    # A file stays if no file imported it, or if a file that stays imports it.
    staying: set[str] = set()
    for file in reversed(files.file):
        if file.name in roots or file.name in staying:
            staying |= {file.name, *file.dependency}
    for index in reversed(range(len(files.file))):
        if files.file[index].name not in staying:
            del files.file[index]
    _check_complete(files)
    return serialize(files)


def _strip(file: Any) -> None:
    """Remove the validation rules, and every reference to them, from one file descriptor."""
    _strip_options(file)
    for index in reversed(range(len(file.extension))):
        if file.extension[index].extendee.startswith(".buf.validate."):  # A rule of the domain's own.
            del file.extension[index]
    rules_index = list(file.dependency).index(RULES_FILE)
    del file.dependency[rules_index]
    for indexes in (file.public_dependency, file.weak_dependency):
        indexes[:] = [index - (index > rules_index) for index in indexes if index != rules_index]
    _strip_locations(file, rules_index)


def _strip_options(message: Any) -> None:
    """Remove the rules from every `options` below `message`, and options that are empty then."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.name != "options":
            for child in value if field.is_repeated else [value]:
                _strip_options(child)
            continue
        for extension, _ in value.ListFields():
            if extension.is_extension and extension.file.name == RULES_FILE:
                value.ClearExtension(extension)
        if not value.ByteSize():
            message.ClearField(field.name)


def _strip_locations(file: Any, rules_index: int) -> None:
    """Remove the source locations of removed elements, and renumber those of later imports."""
    imports = file.DESCRIPTOR.fields_by_name["dependency"].number
    locations = []
    for location in file.source_code_info.location:
        if len(location.path) == 2 and location.path[0] == imports:
            if location.path[1] == rules_index:
                continue
            location.path[1] -= location.path[1] > rules_index
        if _has_target(location.path, file):
            locations.append(location)
    if file.HasField("source_code_info"):
        contents = [location.SerializeToString() for location in locations]
        del file.source_code_info.location[:]
        for content in contents:
            file.source_code_info.location.add().ParseFromString(content)


def _has_target(path: Sequence[int], message: Any) -> bool:
    """Return True if a source location's path (field number, index, field number, ...) still has a target."""
    steps = iter(path)
    for number in steps:
        field = message.DESCRIPTOR.fields_by_number.get(number)
        if field is None:
            extension = message.DESCRIPTOR.file.pool.FindExtensionByNumber(message.DESCRIPTOR, number)
            return str(extension.file.name) != RULES_FILE
        value = getattr(message, field.name)
        if field.is_repeated:
            index = next(steps, None)
            if index is None:
                return True
            if index >= len(value):
                return False
            value = value[index]
        elif not message.HasField(field.name):
            return False
        if field.message_type is None:
            return True
        message = value
    return True


def _check_complete(files: Any) -> None:
    """Raise `ContractError` if a file still refers to the rules, by other means than options."""
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        try:
            pool.AddSerializedFile(file.SerializeToString())
        except TypeError as error:
            raise ContractError(f"{file.name} cannot do without {RULES_FILE}: {error}") from None
