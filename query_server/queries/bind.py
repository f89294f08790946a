"""The domain's QueryService: every rpc bound to the handler of its query.

Rows pass through as the bytes that they are stored as; only combined queries parse them.
"""

from __future__ import annotations

from diptych.domain.loading import LoadedDomain
from diptych.domain.methods import QueryMethod
from diptych.domain.projection import CombinedQuery, FindQuery, GetQuery
from diptych.server.router import Router, UnaryHandler
from query_server.queries.combined import combined_handler
from query_server.queries.find import find_handler
from query_server.queries.fresh import Reading
from query_server.queries.get import get_handler


def bind(router: Router, loaded: LoadedDomain, reading: Reading) -> None:
    """Bind every rpc of the domain's QueryService."""
    for method in loaded.queries.values():
        router.bind_unary(loaded.query_service, method.name, handler(method, loaded.query_service, reading))


def handler(method: QueryMethod, service: str, reading: Reading) -> UnaryHandler:
    """Return the handler of one rpc."""
    match method.query:
        case GetQuery() as query:
            return get_handler(query, reading)
        case FindQuery() as query:
            return find_handler(query, f"{service}/{method.name}", reading)
        case CombinedQuery() as query:
            return combined_handler(query, f"{service}/{method.name}", reading)
