"""The binder: where handlers of bytes become rpcs, and refusals become statuses.

Handlers take the request's bytes and return the response's bytes, so that nothing is parsed or serialised that
need not be, and so that every error but gRPC core's own hard limits is told by us.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from diptych.contract.reasons import InternalError, MethodUnknown, Overloaded
from diptych.contract.token import METADATA_KEY
from diptych.domain.refusal import Refusal

REQUEST_ID_KEY = "diptych-request-id"
"""The request metadata in which a request id can travel."""

Context = grpc.aio.ServicerContext[Any, Any]
UnaryHandler = Callable[[bytes, Context], Awaitable[bytes]]
StreamHandler = Callable[[bytes, Context], AsyncIterator[bytes]]
DuplexHandler = Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]
M = TypeVar("M", bound=Message)

_MESSAGE_BYTES_MAX = 1000
_VALUE_BYTES_MAX = 300
_DETAILS_BYTES_MAX = 4000
"""With its message a status takes no more, and a thousand of them, the outcomes of one message, fit into 4 MiB."""
_OVERHEAD_BYTES_MAX = 100
_RETRY_SECONDS = 1.0
_GRPC_STATUS: dict[int, grpc.StatusCode] = {status.value[0]: status for status in grpc.StatusCode}
"""By the number of a refusal's status."""
_INTERNAL = "diptych.internal."
"""What the services begin with that our servers have for each other."""

_log = structlog.get_logger(__name__)


def metadata_value(context: Context, key: str) -> str:
    """The first value of a key in the request's metadata; empty without one."""
    for name, value in context.invocation_metadata() or ():
        if name == key:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return ""


def tell_token(context: Context, token: str) -> None:
    """Puts a token into the answer's trailers."""
    context.set_trailing_metadata(((METADATA_KEY, token),))


def wait_seconds(context: Context, without_deadline: float) -> float:
    """How long a call may wait: until shortly before its deadline, so that it can still answer.

    Shortly is 5 % of the time left, at least 5 and at most 250 milliseconds.
    """
    left: float | None = context.time_remaining()
    return without_deadline if left is None else max(0.0, left - min(0.25, max(0.005, left * 0.05)))


def internal_error(error: BaseException, request_id: str, **where: str) -> InternalError:
    """The refusal for an exception that nobody foresaw, which is logged here with its trace."""
    _log.error("unforeseen exception", request_id=request_id, exc_info=error, **where)
    return InternalError(request_id=request_id)


def fitting(status: status_pb2.Status) -> status_pb2.Status:
    """The status itself, shortened where it must be: long values and messages are cut, the last violations left out.

    gRPC clients refuse an answer whose trailers come to more than 8 KiB, and then tell nothing of it. That there
    are more violations is told by their number in `ErrorInfo` and by the message.
    """
    status.message = _shortened(status.message, _MESSAGE_BYTES_MAX)
    if status.ByteSize() <= _DETAILS_BYTES_MAX:
        return status
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(info):
            for key, value in info.metadata.items():
                info.metadata[key] = _shortened(value, _VALUE_BYTES_MAX)
            detail.Pack(info)
    for detail in status.details:
        if detail.Unpack(bad):
            violations = list(bad.field_violations)
            left = _DETAILS_BYTES_MAX - status.ByteSize() + detail.ByteSize() - _OVERHEAD_BYTES_MAX
            bad.ClearField("field_violations")
            for violation in violations:
                violation.field = _shortened(violation.field, _VALUE_BYTES_MAX)
                violation.description = _shortened(violation.description, _VALUE_BYTES_MAX)
                left -= violation.ByteSize() + 4
                if left < 0:
                    break
                bad.field_violations.append(violation)
            detail.Pack(bad)
    return status


def _shortened(text: str, bytes_max: int) -> str:
    """A text that takes so many bytes at the most where gRPC writes three for each that is no visible ASCII."""
    if len(text) * 12 <= bytes_max:
        return text
    size = 0
    for index, character in enumerate(text):
        size += 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if size > bytes_max:
            return text[: max(0, index - 3)] + "..."
    return text


def _counts(service: str) -> int:
    """What a call of a service counts for the limit. A server with all its hands full is healthy, and says so."""
    return 0 if service.startswith((_INTERNAL, "grpc.health.")) else 1


def _trailers(refusal: Refusal, status: status_pb2.Status) -> tuple[tuple[str, str | bytes], ...]:
    details = ("grpc-status-details-bin", status.SerializeToString())
    return (details, (METADATA_KEY, refusal.trailer_token)) if refusal.trailer_token else (details,)


class Binder(grpc.GenericRpcHandler):
    """Routes methods by their full name (`/package.Service/Method`) to handlers.

    As the last handler of a server it also answers for methods that nobody serves. `domain` is the `ErrorInfo`
    domain of a domain's own refusals.
    """

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._calls = 0
        self.calls_max = sys.maxsize
        """Calls under way at once; more are refused. Those of our own servers among each other do not count."""
        self.services: set[str] = set()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """For gRPC: the handler of a call."""
        return self._methods.get(details.method) or self._unknown(details.method)

    def unary(self, service: str, method: str, handler: UnaryHandler) -> None:
        """Binds a unary rpc."""

        counts = _counts(service)

        async def call(request: bytes, context: Context) -> bytes:
            self._calls += counts
            try:
                if self._calls > self.calls_max and counts:
                    raise self._overloaded()
                return await handler(request, context)
            except Exception as error:
                self._tell(self._refusal(error, context, method), context)
                return b""
            finally:
                self._calls -= counts

        self._add(service, method, grpc.unary_unary_rpc_method_handler(cast("Any", call)))

    def stream(self, service: str, method: str, handler: StreamHandler) -> None:
        """Binds an rpc that answers with a stream."""

        counts = _counts(service)

        async def call(request: bytes, context: Context) -> AsyncIterator[bytes]:
            self._calls += counts
            try:
                if self._calls > self.calls_max and counts:
                    raise self._overloaded()
                async for frame in handler(request, context):
                    yield frame
            except Exception as error:
                self._tell(self._refusal(error, context, method), context)
            finally:
                self._calls -= counts

        self._add(service, method, grpc.unary_stream_rpc_method_handler(cast("Any", call)))

    def duplex(self, service: str, method: str, handler: DuplexHandler) -> None:
        """Binds an rpc with a stream both ways."""

        counts = _counts(service)

        async def call(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            self._calls += counts
            try:
                if self._calls > self.calls_max and counts:
                    raise self._overloaded()
                async for frame in handler(requests, context):
                    yield frame
            except Exception as error:
                self._tell(self._refusal(error, context, method), context)
            finally:
                self._calls -= counts

        self._add(service, method, grpc.stream_stream_rpc_method_handler(cast("Any", call)))

    def _overloaded(self) -> Refusal:
        return Overloaded(what="calls at once", limit=self.calls_max).with_details(retry_seconds=_RETRY_SECONDS)

    def status(self, refusal: Refusal) -> status_pb2.Status:
        """The status that tells a refusal, shortened to what clients take."""
        return fitting(refusal.to_status(self._domain))

    def _add(self, service: str, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> None:
        self.services.add(service)
        self._methods[f"/{service}/{method}"] = handler

    def _unknown(self, method: str) -> grpc.RpcMethodHandler[Any, Any]:
        async def call(requests: AsyncIterator[bytes], context: Context) -> bytes:
            # Without any message: an empty one would tell clients that look for another version of reflection,
            # as `buf curl` does, that they have found it.
            refusal = MethodUnknown(method=method)
            status = self.status(refusal)
            await context.abort(_GRPC_STATUS[refusal.status], status.message, _trailers(refusal, status))
            raise AssertionError("abort raises")

        return grpc.stream_unary_rpc_method_handler(cast("Any", call))

    def _refusal(self, error: Exception, context: Context, method: str) -> Refusal:
        if isinstance(error, Refusal):
            return error
        return internal_error(error, metadata_value(context, REQUEST_ID_KEY), method=method)

    def _tell(self, refusal: Refusal, context: Context) -> None:
        status = self.status(refusal)
        context.set_code(_GRPC_STATUS[refusal.status])
        context.set_details(status.message)
        context.set_trailing_metadata(_trailers(refusal, status))
