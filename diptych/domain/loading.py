"""Domains: what a deployment serves, and the checks that run when one is loaded."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from google.protobuf import descriptor, descriptor_pool, message_factory
from google.protobuf.message import Message

from diptych.domain.aggregate import Aggregate, DeciderBinding
from diptych.domain.process import STEPPED, After, Call, Port, Process, Send
from diptych.domain.projection import Projection, View
from diptych.domain.query import CombinedQuery, FindQuery, GetQuery, Query
from diptych.domain.state_codec import StateCodec

_RESULT = "diptych.v1.CommandResult"


class DomainError(Exception):
    """A domain that cannot be served; the message names what is wrong."""


class Domain:
    """What a deployment serves: `Domain("library", aggregates=[member, copy], projections=[lending])`.

    The name is that of the Python package that holds it under the name `domain`, and its contracts are the proto
    package `<name>.v1`. `ports` is where the effects of its processes go.
    """

    def __init__(
        self,
        name: str,
        *,
        aggregates: Sequence[Aggregate[Any]],
        projections: Sequence[Projection],
        processes: Sequence[Process[Any]] = (),
        ports: Sequence[Port[Any, Any]] = (),
    ) -> None:
        self.name = name
        self.aggregates = {aggregate.type: aggregate for aggregate in (*aggregates, *processes)}
        """All aggregates by type, processes included."""
        self.processes = {process.type: process for process in processes}
        self.ports = {port.request.DESCRIPTOR.full_name: port for port in ports}
        """By the type of the requests that each takes."""
        self.projections = {projection.name: projection for projection in projections}
        _refuse_doubles("aggregate", [aggregate.type for aggregate in (*aggregates, *processes)])
        _refuse_doubles("port", [port.request.DESCRIPTOR.full_name for port in ports])
        _refuse_doubles("projection", [projection.name for projection in projections])
        _refuse_doubles("view", [view.name for projection in projections for view in projection.views])
        upcasters = {name: one for aggregate in self.aggregates.values() for name, one in aggregate.upcasters.items()}
        for projection in projections:
            projection.upcasters = upcasters

    @property
    def package(self) -> str:
        """The domain's proto package, and the `ErrorInfo` domain of its refusals."""
        return f"{self.name}.v1"

    @property
    def views(self) -> dict[str, View[Any]]:
        """All views by name."""
        return {view.name: view for projection in self.projections.values() for view in projection.views}


class CommandMethod(NamedTuple):
    """An rpc of the domain's CommandService and what decides it."""

    name: str
    binding: DeciderBinding
    response: type[Message]


class QueryMethod(NamedTuple):
    """An rpc of the domain's QueryService and what answers it."""

    name: str
    projection: Projection
    query: Query


class LoadedDomain:
    """A domain that has been checked against its contracts."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.codecs = {name: _codec(aggregate) for name, aggregate in domain.aggregates.items()}
        self.event_types = _event_types(domain)
        self.deciders = _deciders(domain)
        """Every command by its type, those included that only processes send."""
        self.commands = _bind_commands(domain, self.deciders)
        """The commands of the contract, by type."""
        self.queries = _bind_queries(domain)
        for aggregate in domain.aggregates.values():
            _check_evolvers(aggregate)
            _check_upcasters(aggregate)
        for process in domain.processes.values():
            _check_process(process, self)
        for projection in domain.projections.values():
            _check_projection(projection, self.event_types)

    @property
    def command_service(self) -> str:
        """The full name of the domain's CommandService."""
        return f"{self.domain.package}.CommandService"

    @property
    def query_service(self) -> str:
        """The full name of the domain's QueryService."""
        return f"{self.domain.package}.QueryService"


def load(name: str) -> LoadedDomain:
    """Loads and checks the domain in the Python package `name`; raises `DomainError`."""
    if importlib.util.find_spec(name) is None:
        raise DomainError(
            f"There is no Python package {name} to load the domain from: it is not installed, and the working "
            f"directory does not hold it. Install it (`pip install diptych-shop` for the shop), or start where it is."
        )
    module = importlib.import_module(name)
    domain = getattr(module, "domain", None)
    if not isinstance(domain, Domain):
        raise DomainError(f"Package {name} has no `domain`, a diptych.Domain.")
    if domain.name != name.rpartition(".")[2]:
        raise DomainError(f"Package {name} holds the domain {domain.name}; the names must be the same.")
    _import_contracts(name)
    return LoadedDomain(domain)


def _import_contracts(name: str) -> None:
    """Imports the domain's generated modules, so that their descriptors are in the pool."""
    try:
        package = importlib.import_module(f"{name}.v1")
    except ModuleNotFoundError as error:
        raise DomainError(f"The contracts of {name} have not been generated: {error}.") from error
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.endswith("_pb2"):
            importlib.import_module(f"{name}.v1.{module.name}")


def _refuse_doubles(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DomainError(f"There are two {what}s named {name}.")


def _codec(aggregate: Aggregate[Any]) -> StateCodec[Any]:
    try:
        return StateCodec(type(aggregate.initial))
    except TypeError as error:
        raise DomainError(f"The state of aggregate {aggregate.type} has no codec: {error}") from error


def _event_types(domain: Domain) -> dict[str, type[Message]]:
    """Every event type that the log can hold, those that are no longer recorded included."""
    kinds: dict[str, type[Message]] = {}
    for aggregate in domain.aggregates.values():
        for name, (kind, _) in aggregate.evolvers.items():
            if name in kinds and name != STEPPED:
                raise DomainError(f"Event {name} is evolved by two aggregates; an event belongs to one.")
            kinds[name] = kind
    for aggregate in domain.aggregates.values():
        for name, upcaster in aggregate.upcasters.items():
            if name in kinds:
                raise DomainError(f"Event {name}, which {aggregate.type} upcasts, is evolved or upcast as well.")
            kinds[name] = upcaster.event
    return kinds


def _methods(service: str) -> list[descriptor.MethodDescriptor]:
    try:
        found = descriptor_pool.Default().FindServiceByName(service)
    except KeyError:
        raise DomainError(f"The contracts declare no service {service}.") from None
    for method in found.methods:
        if method.client_streaming or method.server_streaming:
            raise DomainError(f"Rpc {service}.{method.name} streams; a domain's rpcs are unary.")
    return list(found.methods)


def _field_type(message: descriptor.Descriptor, field: str) -> str:
    found = message.fields_by_name.get(field)
    return found.message_type.full_name if found is not None and found.message_type is not None else ""


def _deciders(domain: Domain) -> dict[str, DeciderBinding]:
    deciders: dict[str, DeciderBinding] = {}
    for aggregate in domain.aggregates.values():
        for name, binding in aggregate.deciders.items():
            if name in deciders:
                raise DomainError(f"Command {name} is decided by two aggregates.")
            deciders[name] = binding
    return deciders


def _bind_commands(domain: Domain, deciders: dict[str, DeciderBinding]) -> dict[str, CommandMethod]:
    service = f"{domain.package}.CommandService"
    public = {name: binding for name, binding in deciders.items() if not binding.internal}
    bound: dict[str, CommandMethod] = {}
    for method in _methods(service):
        name = method.input_type.full_name
        if name in deciders and deciders[name].internal:
            raise DomainError(f"Command {name} is internal, and yet {service} has an rpc for it, {method.name}.")
        if name not in public:
            raise DomainError(f"Rpc {service}.{method.name} has no decider: no aggregate decides {name}.")
        if _field_type(method.input_type, "context") != "diptych.v1.CommandContext":
            raise DomainError(f"Command {name} has no field `context` of type diptych.v1.CommandContext.")
        result = method.output_type.fields_by_name.get("result")
        if result is None or result.number != 1 or _field_type(method.output_type, "result") != _RESULT:
            raise DomainError(f"{method.output_type.full_name} has no field `diptych.v1.CommandResult result = 1`.")
        response = message_factory.GetMessageClass(method.output_type)
        bound[name] = CommandMethod(method.name, public.pop(name), response)
    if public:
        raise DomainError(
            f"{service} has no rpc for the command(s) {', '.join(sorted(public))}; those that only processes send "
            "are declared with internal=True."
        )
    return bound


def _bind_queries(domain: Domain) -> dict[str, QueryMethod]:
    service = f"{domain.package}.QueryService"
    queries: dict[str, tuple[Projection, Query]] = {}
    for projection in domain.projections.values():
        for name, query in projection.queries.items():
            if name in queries:
                raise DomainError(f"Query {name} is answered by two projections.")
            queries[name] = (projection, query)
    bound: dict[str, QueryMethod] = {}
    for method in _methods(service):
        name = method.input_type.full_name
        if name not in queries:
            raise DomainError(f"Rpc {service}.{method.name} has no query: no projection answers {name}.")
        if _field_type(method.input_type, "consistency") != "diptych.v1.Consistency":
            raise DomainError(f"Query {name} has no field `consistency` of type diptych.v1.Consistency.")
        projection, query = queries.pop(name)
        _check_query(query, method)
        bound[name] = QueryMethod(method.name, projection, query)
    if queries:
        raise DomainError(f"{service} has no rpc for the query(s) {', '.join(sorted(queries))}.")
    return bound


def repeated_field(response: descriptor.Descriptor, row: descriptor.Descriptor) -> descriptor.FieldDescriptor | None:
    """The one repeated field of a list response that takes the rows, if there is exactly one."""
    found = [
        field
        for field in response.fields
        if field.is_repeated and field.message_type is not None and field.message_type.full_name == row.full_name
    ]
    return found[0] if len(found) == 1 else None


def _check_query(query: Query, method: descriptor.MethodDescriptor) -> None:
    answer = method.output_type
    match query:
        case GetQuery(view=view):
            if view.row.DESCRIPTOR.full_name != answer.full_name:
                raise DomainError(
                    f"Rpc {method.full_name} returns {answer.full_name}, and view {view.name} has rows of "
                    f"{view.row.DESCRIPTOR.full_name}."
                )
            _probe(lambda: query.key(query.request()), f"the key of query {method.name}")
        case FindQuery(view=view, response=response):
            if response.DESCRIPTOR.full_name != answer.full_name:
                raise DomainError(f"Rpc {method.full_name} does not return {response.DESCRIPTOR.full_name}.")
            if repeated_field(answer, view.row.DESCRIPTOR) is None:
                raise DomainError(
                    f"{answer.full_name} needs exactly one repeated field of {view.row.DESCRIPTOR.full_name}."
                )
            for name, column in query.order_by.items():
                if column.view is not view:
                    raise DomainError(f"Query {method.name} orders by {name}, a column of view {column.view.name}.")
        case CombinedQuery(response=response):
            if response.DESCRIPTOR.full_name != answer.full_name:
                raise DomainError(f"Rpc {method.full_name} does not return {response.DESCRIPTOR.full_name}.")


def _probe(call: typing.Callable[[], object], what: str) -> Any:
    """Calls a function of a message with an empty one: what it fails on then is a field that does not exist."""
    try:
        return call()
    except AttributeError as error:
        raise DomainError(f"{what[0].upper()}{what[1:]} uses an unknown field: {error}.") from error
    except Exception:
        return None  # An empty message need not make sense to it.


def _check_evolvers(aggregate: Aggregate[Any]) -> None:
    for command, binding in aggregate.deciders.items():
        for event in _returned_messages(binding.decide):
            if event.DESCRIPTOR.full_name not in aggregate.evolvers:
                raise DomainError(
                    f"The decider of {command} records {event.DESCRIPTOR.full_name}, for which aggregate "
                    f"{aggregate.type} has no evolver."
                )


def _check_upcasters(aggregate: Aggregate[Any]) -> None:
    for name, upcaster in aggregate.upcasters.items():
        for kind in upcaster.becomes:
            new = kind.DESCRIPTOR.full_name
            if new not in aggregate.evolvers and new not in aggregate.upcasters:
                raise DomainError(
                    f"Event {name} is upcast to {new}, for which aggregate {aggregate.type} has no evolver."
                )
        try:
            upcaster.upcast(upcaster.event())
        except (AttributeError, TypeError) as error:
            raise DomainError(f"The upcaster of {name} fails on an empty event: {error}") from error
        except ValueError as error:
            if "has no" in str(error):  # What protobuf says of a field that does not exist.
                raise DomainError(f"The upcaster of {name} uses an unknown field: {error}") from error


def _check_process(process: Process[Any], domain: LoadedDomain) -> None:
    """Refuses handlers of what cannot come, and outputs that annotations name and that cannot go anywhere."""
    ports = domain.domain.ports
    for what, bindings, known, where in (
        ("event", process.events, domain.event_types, "which no aggregate of the domain records"),
        ("acceptances of", process.acceptances, domain.deciders, "which is no command of the domain"),
        ("refusals of", process.refusals, domain.deciders, "which is no command of the domain"),
        ("answers to", process.answers, ports, "for which the domain has no port"),
        ("failures of", process.failures, ports, "for which the domain has no port"),
    ):
        for name in bindings:
            if name not in known:
                raise DomainError(f"Process {process.type} handles {what} {name}, {where}.")
    for name, binding in process.events.items():
        if name in process.evolvers:
            raise DomainError(f"Process {process.type} reacts to {name}, which is an event of its own.")
        key = binding.key
        assert key is not None
        _probe(lambda key=key, kind=binding.message: key(kind()), f"the key of process {process.type} on {name}")  # type: ignore[misc]
    for where, handle in _handlers(process):
        for kind in _returned_messages(handle):
            if kind.DESCRIPTOR.full_name not in process.evolvers:
                raise DomainError(
                    f"{where} records {kind.DESCRIPTOR.full_name}, for which process {process.type} has no evolver."
                )
        for kind in _returned_outputs(handle, Send):
            if kind.DESCRIPTOR.full_name not in domain.deciders:
                raise DomainError(f"{where} sends {kind.DESCRIPTOR.full_name}, which is no command of the domain.")
        for kind in _returned_outputs(handle, Call):
            if kind.DESCRIPTOR.full_name not in ports:
                raise DomainError(f"{where} calls {kind.DESCRIPTOR.full_name}, for which the domain has no port.")
        for kind in _returned_outputs(handle, After):
            if kind.DESCRIPTOR.full_name not in process.timeouts:
                raise DomainError(
                    f"{where} sets timeout {kind.DESCRIPTOR.full_name}, which process {process.type} does not handle."
                )


def _handlers(process: Process[Any]) -> Iterator[tuple[str, Callable[..., object]]]:
    """Every handler of a process, with what to call it in a sentence."""
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


def _returned(handle: typing.Callable[..., object]) -> tuple[Any, ...]:
    """What the items of a handler's return annotation can be."""
    annotation = typing.get_type_hints(inspect.unwrap(handle)).get("return")
    arguments = typing.get_args(annotation)
    if not arguments:
        return ()
    item = arguments[0]
    union = typing.get_origin(item) in (typing.Union, types.UnionType)
    return typing.get_args(item) if union else (item,)


def _returned_messages(decide: typing.Callable[..., object]) -> list[type[Message]]:
    """The event types that a handler's return annotation names."""
    return [kind for kind in _returned(decide) if _is_message(kind)]


def _returned_outputs(handle: typing.Callable[..., object], output: type[Any]) -> list[type[Message]]:
    """What it sends, calls or sets by its return annotation, which may say `Send[HoldCopyRequest | DropRequest]`."""
    kinds: list[type[Message]] = []
    for item in _returned(handle):
        if typing.get_origin(item) is output:
            (named,) = typing.get_args(item)
            kinds += [kind for kind in (named, *typing.get_args(named)) if _is_message(kind)]
    return kinds


def _is_message(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Message) and kind is not Message


def _check_projection(projection: Projection, event_types: dict[str, type[Message]]) -> None:
    for view in projection.views:
        for name, handler in view.handlers.items():
            where = f"view {view.name} on {name}"
            if name not in event_types:
                raise DomainError(f"{where[0].upper()}{where[1:]}: no aggregate of the domain records that event.")
            if name in projection.upcasters:
                raise DomainError(
                    f"{where[0].upper()}{where[1:]}: that event is upcast before it is folded; fold what it becomes."
                )
            _probe(lambda handler=handler: list(handler.keys(handler.event())), f"the key of {where}")  # type: ignore[misc]
            if handler.reads is None:
                continue
            reads = handler.reads
            refs = _probe(lambda reads=reads, handler=handler: list(reads(handler.event())), f"`reads` of {where}")  # type: ignore[misc]
            for ref in refs or ():
                check_look_up(view, ref.view)
        for columns in view.indexes:
            if any(column.view is not view for column in columns):
                raise DomainError(f"An index of view {view.name} has a column of another view.")


def check_look_up(view: View[Any], read: View[Any]) -> None:
    """Refuses a look-up that is not of an earlier view of the same projection."""
    if read.projection is not view.projection:
        raise DomainError(
            f"View {view.name} looks up view {read.name} of projection {read.projection.name}; "
            "look-ups stay within one projection."
        )
    if read.index >= view.index:
        raise DomainError(f"View {view.name} looks up view {read.name}, which is not declared before it.")
