"""Checks of a domain's declarations when it is loaded.

Each check raises `DomainError` with the declaration that is wrong.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from typing import Any

from google.protobuf import descriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from diptych.domain.aggregate import Aggregate, AggregateRef
from diptych.domain.domain import Domain
from diptych.domain.errors import DomainError
from diptych.domain.folding import NO_LOOK_UPS, check_look_up
from diptych.domain.folds import Handler
from diptych.domain.outputs import After, Call, Send
from diptych.domain.process import Process
from diptych.domain.projection import CombinedQuery, FindQuery, GetQuery, Projection, Query, View
from diptych.domain.query import ColumnError, repeated_field
from diptych.domain.recorded import Recorded
from diptych.domain.results import no_text
from diptych.domain.signatures import signature_fault

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
"""Time of the queries that the checks make."""
_EMPTY_PLACE = Recorded(
    position=1, aggregate=AggregateRef("aggregate", "id"), version=1, record_time=Timestamp(), source=NO_LOOK_UPS
)
"""Place of the events that the checks make."""


def check_declarations(domain: Domain, event_types: Collection[str], commands: Collection[str]) -> None:
    """Check all declarations of a domain that can be checked without its contracts.

    Args:
        domain: The domain.
        event_types: Its events, old ones included.
        commands: Its commands, internal ones included.

    Raises:
        DomainError: A declaration is wrong.
    """
    for aggregate in domain.aggregates.values():
        _check_signatures(aggregate)
        _check_evolvers(aggregate)
        _check_upcasters(aggregate)
    for process in domain.processes.values():
        _check_process(process, event_types, commands, domain)
    for projection in domain.projections.values():
        _check_projection(projection, event_types)


def _check_signatures(aggregate: Aggregate[Any]) -> None:
    """Check that deciders and evolvers are pure functions with the parameters that the engine gives them."""
    for command, binding in aggregate.deciders.items():
        _check_signature(f"The decider of {command}", binding.decide, "state", "command", "at")
        annotation = _annotation(f"the decider of {command}", binding.decide)
        if annotation is type(None) or _is_message(annotation):
            raise DomainError(
                f"The decider of {command} is annotated to return {annotation.__name__}; return a list of events, as "
                "Sequence[Event].",
                binding.decide,
            )
    for event, (_, evolve) in aggregate.evolvers.items():
        _check_signature(f"The evolver of {event}", evolve, "state", "event")


def _check_signature(what: str, function: Callable[..., object], *parameters: str) -> None:
    fault = signature_fault(function, *parameters)
    if fault:
        raise DomainError(f"{what} {fault}.", function)


def _check_evolvers(aggregate: Aggregate[Any]) -> None:
    """Check that each event in a decider's return annotation has an evolver."""
    for command, binding in aggregate.deciders.items():
        for event in _returned_messages(binding.decide):
            if event.DESCRIPTOR.full_name not in aggregate.evolvers:
                raise DomainError(
                    f"The decider of {command} records {event.DESCRIPTOR.full_name}, for which aggregate "
                    f"{aggregate.type} has no evolver.",
                    binding.decide,
                )


def _check_upcasters(aggregate: Aggregate[Any]) -> None:
    """Check that each upcaster leads to an evolver and uses fields that exist."""
    for name, upcaster in aggregate.upcasters.items():
        for kind in upcaster.becomes:
            new = kind.DESCRIPTOR.full_name
            if new not in aggregate.evolvers and new not in aggregate.upcasters:
                raise DomainError(
                    f"Event {name} is upcast to {new}, for which aggregate {aggregate.type} has no evolver.",
                    upcaster.upcast,
                )
        try:
            upcaster.upcast(upcaster.event())
        except (AttributeError, TypeError) as error:
            raise DomainError(f"The upcaster of {name} fails on an empty event: {error}", upcaster.upcast) from error
        except ValueError as error:
            if "has no" in str(error):  # The message of protobuf for a field that does not exist.
                raise DomainError(f"The upcaster of {name} uses an unknown field: {error}", upcaster.upcast) from error


def _check_process(
    process: Process[Any], event_types: Collection[str], commands: Collection[str], domain: Domain
) -> None:
    """Check that each input of a process can occur, and that each output in a return annotation has a receiver."""
    ports = domain.ports
    for what, bindings, existing, complaint in (
        ("event", process.events, event_types, "which no aggregate of the domain records"),
        ("acceptances of", process.acceptances, commands, "which is no command of the domain"),
        ("refusals of", process.refusals, commands, "which is no command of the domain"),
        ("answers to", process.answers, ports, "for which the domain has no port"),
        ("failures of", process.failures, ports, "for which the domain has no port"),
    ):
        for name, binding in bindings.items():
            if name not in existing:
                raise DomainError(f"Process {process.type} handles {what} {name}, {complaint}.", binding.handle)
    for name, binding in process.events.items():
        if name in process.evolvers:
            raise DomainError(f"Process {process.type} reacts to {name}, which is an event of its own.", binding.handle)
        if name in domain.upcasters:
            raise DomainError(
                f"Process {process.type} reacts to {name}: that event is upcast before the process takes it; react to "
                "what it becomes.",
                binding.handle,
            )
        assert binding.key is not None
        what = f"The key of process {process.type} on {name}"
        key = _probe(what, binding.key, binding.key, binding.message())
        if key is not None and not isinstance(key, str):
            raise DomainError(f"{what} {no_text(key)}", binding.key)
    for handler, handle in _handlers(process):
        _check_signature(handler.removesuffix(","), handle, "state", "input", "at")
        _check_step(process, handler, handle, commands, ports)


def _check_step(
    process: Process[Any],
    handler: str,
    handle: Callable[..., object],
    commands: Collection[str],
    ports: Collection[str],
) -> None:
    """Check that each event in a handler's return annotation has an evolver, and each output a receiver."""
    for kind in _returned_messages(handle):
        if kind.DESCRIPTOR.full_name not in process.evolvers:
            raise DomainError(
                f"{handler} records {kind.DESCRIPTOR.full_name}, for which process {process.type} has no evolver.",
                handle,
            )
    for kind in _returned_outputs(handle, Send):
        if kind.DESCRIPTOR.full_name not in commands:
            raise DomainError(
                f"{handler} sends {kind.DESCRIPTOR.full_name}, which is no command of the domain.", handle
            )
    for kind in _returned_outputs(handle, Call):
        if kind.DESCRIPTOR.full_name not in ports:
            raise DomainError(f"{handler} calls {kind.DESCRIPTOR.full_name}, for which the domain has no port.", handle)
    for kind in _returned_outputs(handle, After):
        if kind.DESCRIPTOR.full_name not in process.timeouts:
            raise DomainError(
                f"{handler} sets timeout {kind.DESCRIPTOR.full_name}, which process {process.type} does not handle.",
                handle,
            )


def _check_projection(projection: Projection, event_types: Collection[str]) -> None:
    """Check that each fold, look-up and index of a projection uses events, views and columns that it can use."""
    for view in projection.views:
        for name, handler in view.handlers.items():
            if name not in event_types:
                raise DomainError(
                    f"View {view.name} on {name}: no aggregate of the domain records that event.", handler.fold
                )
            if name in projection.upcasters:
                raise DomainError(
                    f"View {view.name} on {name}: that event is upcast before it is folded; fold what it becomes.",
                    handler.fold,
                )
            parameters = ("row", "part" if handler.in_parts else "event", "at")
            _check_signature(f"The fold of view {view.name} on {name}", handler.fold, *parameters)
            _check_keys(view, name, handler)
        for columns in view.indexes:
            if any(column.view is not view for column in columns):
                raise DomainError(f"An index of view {view.name} has a column of another view.", view.location)


def _check_keys(view: View[Any], name: str, handler: Handler) -> None:
    """Check that keys and look-ups of a handler use fields that exist, and that it looks up earlier views.

    Keys must be texts, by the return annotation and for an empty event.
    """
    what = f"The key of view {view.name} on {name}"
    annotation = _annotation(what, handler.key)
    if annotation in (int, float, bytes, bool, type(None)):
        raise DomainError(
            f"{what} is annotated to return {annotation.__name__}; return a text, as str(...).", handler.key
        )
    arguments = (_EMPTY_PLACE,) if handler.placed else ()
    keys = _probe(what, handler.key, lambda event: handler.keys(event, *arguments), handler.event())
    if isinstance(keys, str):
        raise DomainError(f"{what} gave the text {keys!r}, not the keys themselves; use `on` for one key.", handler.key)
    for key in keys or ():
        if not isinstance(key, str):
            raise DomainError(f"{what} {no_text(key)}", handler.key)
    reads = handler.reads
    if reads is None:
        return
    refs = _probe(f"`reads` of view {view.name} on {name}", reads, lambda event: list(reads(event)), handler.event())
    for ref in refs or ():
        try:
            check_look_up(view, ref.view)
        except LookupError as error:
            raise DomainError(str(error), reads) from None


def check_query(query: Query, method: descriptor.MethodDescriptor) -> None:
    """Check that a query can answer its rpc."""
    answer = method.output_type
    match query:
        case GetQuery(view=view):
            if view.row.DESCRIPTOR.full_name != answer.full_name:
                raise DomainError(
                    f"Rpc {method.full_name} returns {answer.full_name}, and view {view.name} has rows of "
                    f"{view.row.DESCRIPTOR.full_name}.",
                    query.key,
                )
            _probe(f"The key of query {method.name}", query.key, query.key, query.request())
        case FindQuery(view=view, response=response):
            if response.DESCRIPTOR.full_name != answer.full_name:
                raise DomainError(
                    f"Rpc {method.full_name} does not return {response.DESCRIPTOR.full_name}.", query.find
                )
            if repeated_field(answer, view.row.DESCRIPTOR) is None:
                raise DomainError(
                    f"{answer.full_name} needs exactly one repeated field of {view.row.DESCRIPTOR.full_name}.",
                    query.find,
                )
            for name, column in query.order_by.items():
                if column.view is not view:
                    raise DomainError(
                        f"Query {method.name} orders by {name}, a column of view {column.view.name}.", query.find
                    )
            _probe(f"Query {method.name}", query.find, lambda request: query.find(request, _NOW), query.request())
        case CombinedQuery(response=response):
            if response.DESCRIPTOR.full_name != answer.full_name:
                raise DomainError(
                    f"Rpc {method.full_name} does not return {response.DESCRIPTOR.full_name}.", query.combine
                )
            _probe(f"Query {method.name}", query.select, lambda request: query.select(request, _NOW), query.request())


def _handlers(process: Process[Any]) -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield every handler of a process after its description for an error."""
    for name, starter in process.starters.items():
        yield f"Process {process.type}, started by {name},", starter
    for what, bindings in (
        ("on", process.events),
        ("on the acceptance of", process.acceptances),
        ("on the refusal of", process.refusals),
        ("on the answer to", process.answers),
        ("on the failure of", process.failures),
        ("on timeout", process.timeouts),
    ):
        for name, binding in bindings.items():
            yield f"Process {process.type}, {what} {name},", binding.handle


def _annotation(what: str, handle: Callable[..., object]) -> Any:
    """Return the return annotation of a function; None if it has none. Raise `DomainError` for an unknown name."""
    function = inspect.unwrap(handle)
    try:
        return typing.get_type_hints(function).get("return")
    except NameError as error:
        raise DomainError(
            f"An annotation of {what} uses {error.name}, which its module does not import; import it outside of "
            "`if TYPE_CHECKING`.",
            function,
        ) from error
    except TypeError:  # A callable without annotations, as a partial.
        return None


def _returned(handle: Callable[..., object]) -> tuple[Any, ...]:
    """Return the types of the items in a handler's return annotation; empty if it names none."""
    arguments = typing.get_args(_annotation("the handler", handle))
    if not arguments:
        return ()
    item = arguments[0]
    union = typing.get_origin(item) in (typing.Union, types.UnionType)
    return typing.get_args(item) if union else (item,)


def _returned_messages(decide: Callable[..., object]) -> list[type[Message]]:
    """Return the event types in a handler's return annotation."""
    return [kind for kind in _returned(decide) if _is_message(kind)]


def _returned_outputs(handle: Callable[..., object], output: type[Any]) -> list[type[Message]]:
    """Return the messages of one kind of output in a return annotation, as in `Send[HoldCopyRequest | DropRequest]`."""
    kinds: list[type[Message]] = []
    for item in _returned(handle):
        if typing.get_origin(item) is output:
            (argument,) = typing.get_args(item)
            kinds += [kind for kind in (argument, *typing.get_args(argument)) if _is_message(kind)]
    return kinds


def _is_message(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Message) and kind is not Message


def _probe(what: str, location: Callable[..., Any], function: Callable[[Any], Any], message: Message) -> Any:
    """Call a function with an empty message, to find the use of a field or a column that does not exist.

    Returns None if the function fails for another reason: an empty message may be invalid for it.
    """
    try:
        result = function(message)
        return list(result) if isinstance(result, Iterator) else result
    except AttributeError as error:
        if error.obj is None:
            return None
        fields = ""
        if isinstance(error.obj, Message):
            names = ", ".join(error.obj.DESCRIPTOR.fields_by_name) or "none"
            fields = f" The fields of {error.obj.DESCRIPTOR.full_name}: {names}."
        raise DomainError(f"{what} uses an unknown field: {error}.{fields}", location) from error
    except ColumnError as error:
        raise DomainError(str(error), location) from error
    except Exception:
        return None
