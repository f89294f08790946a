"""Binding of the rpcs of a domain's contracts to its deciders and queries."""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf import descriptor, descriptor_pool, message_factory
from google.protobuf.message import Message

from diptych.domain.aggregate import DeciderBinding
from diptych.domain.checks import check_query
from diptych.domain.domain import Domain
from diptych.domain.errors import DomainError
from diptych.domain.places import place_of
from diptych.domain.projection import CombinedQuery, FindQuery, GetQuery, Projection, Query

_RESULT = "diptych.v1.CommandResult"


class CommandMethod(NamedTuple):
    """An rpc of the domain's CommandService and its decider."""

    name: str
    binding: DeciderBinding
    response: type[Message]


class QueryMethod(NamedTuple):
    """An rpc of the domain's QueryService and its query."""

    name: str
    projection: Projection
    query: Query


def bind_commands(domain: Domain, deciders: dict[str, DeciderBinding]) -> dict[str, CommandMethod]:
    """Return the rpcs of the CommandService by the full name of the command's type.

    Raises:
        DomainError: An rpc has no decider, a decider has no rpc, or a message lacks a field of the contract.
    """
    service = f"{domain.package}.CommandService"
    public = {name: binding for name, binding in deciders.items() if not binding.internal}
    bound: dict[str, CommandMethod] = {}
    for method in _methods(service):
        name = method.input_type.full_name
        if name in deciders and deciders[name].internal:
            raise DomainError(
                f"Command {name} is internal, and yet {service} has an rpc for it, {method.name}.",
                deciders[name].decide,
            )
        if name not in public:
            raise DomainError(
                f"Rpc {service}.{method.name} has no decider: no aggregate decides {name}.", domain.location
            )
        if _field_type(method.input_type, "context") != "diptych.v1.CommandContext":
            raise DomainError(
                f"Command {name} has no field `context` of type diptych.v1.CommandContext.", public[name].decide
            )
        result = method.output_type.fields_by_name.get("result")
        if result is None or result.number != 1 or _field_type(method.output_type, "result") != _RESULT:
            raise DomainError(
                f"{method.output_type.full_name} has no field `diptych.v1.CommandResult result = 1`.",
                public[name].decide,
            )
        response = message_factory.GetMessageClass(method.output_type)
        bound[name] = CommandMethod(method.name, public.pop(name), response)
    if public:
        raise DomainError(
            f"{service} has no rpc for the command(s) {', '.join(sorted(public))}; declare commands that only "
            "processes send with internal=True.",
            next(iter(public.values())).decide,
        )
    return bound


def bind_queries(domain: Domain) -> dict[str, QueryMethod]:
    """Return the rpcs of the QueryService by the full name of the request's type.

    Raises:
        DomainError: An rpc has no query, a query has no rpc or two projections, or a message lacks a field of the
            contract.
    """
    service = f"{domain.package}.QueryService"
    queries: dict[str, tuple[Projection, Query]] = {}
    for projection in domain.projections.values():
        for name, query in projection.queries.items():
            if name in queries:
                other = queries[name][0]
                raise DomainError(
                    f"Query {name} is answered by two projections, {other.name} and {projection.name}.",
                    place_of_query(query),
                )
            queries[name] = (projection, query)
    bound: dict[str, QueryMethod] = {}
    for method in _methods(service):
        name = method.input_type.full_name
        if name not in queries:
            raise DomainError(
                f"Rpc {service}.{method.name} has no query: no projection answers {name}.", domain.location
            )
        if _field_type(method.input_type, "consistency") != "diptych.v1.Consistency":
            raise DomainError(
                f"Query {name} has no field `consistency` of type diptych.v1.Consistency.",
                place_of_query(queries[name][1]),
            )
        projection, query = queries.pop(name)
        check_query(query, method)
        bound[name] = QueryMethod(method.name, projection, query)
    if queries:
        raise DomainError(
            f"{service} has no rpc for the query(s) {', '.join(sorted(queries))}.",
            place_of_query(next(iter(queries.values()))[1]),
        )
    return bound


def place_of_query(query: Query) -> str:
    """Return file and line of the function of a query."""
    match query:
        case GetQuery():
            return place_of(query.key)
        case FindQuery():
            return place_of(query.find)
        case CombinedQuery():
            return place_of(query.combine)


def _methods(service: str) -> list[descriptor.MethodDescriptor]:
    """Return the rpcs of a service. Raise `DomainError` if there is no such service, or if an rpc streams."""
    try:
        methods = descriptor_pool.Default().FindServiceByName(service).methods
    except KeyError:
        raise DomainError(f"The contracts declare no service {service}.") from None
    for method in methods:
        if method.client_streaming or method.server_streaming:
            raise DomainError(f"Rpc {service}.{method.name} streams; a domain's rpcs are unary.")
    return list(methods)


def _field_type(message: descriptor.Descriptor, name: str) -> str:
    """Return the full name of the type of a message's field; empty if there is no such field or it is a scalar."""
    field = message.fields_by_name.get(name)
    return field.message_type.full_name if field is not None and field.message_type is not None else ""
