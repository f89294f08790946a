"""Channels: the one place that opens connections to our servers, for servers, clients and the command line.

A setting for all connections, such as TLS, belongs here.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import grpc.aio

Channel = grpc.aio.Channel
"""A connection to one server, which is reconnected by itself."""
CallError = grpc.aio.AioRpcError
"""A call on a `Channel` ended with a status other than OK."""
StreamCall = grpc.aio.UnaryStreamCall
"""A call with a stream of responses; `read` returns `END` after the last."""
END = grpc.aio.EOF
Options = Sequence[tuple[str, str | int]]

# A proxy that the environment names is for other networks; our servers are on this one.
_WITHOUT_PROXY: Options = (("grpc.enable_http_proxy", 0),)
_CLIENT_OPTIONS: Options = (
    *_WITHOUT_PROXY,
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A restarted server is connected again within two seconds; gRPC's default backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # Limit of one attempt to connect.
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_SERVER_OPTIONS: Options = (
    *_CLIENT_OPTIONS,
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


def open_server_channel(address: str) -> Channel:
    """Open a channel from one of our servers to another. It notices a dead peer within 15 seconds.

    Args:
        address: `HOST:PORT`.
    """
    return grpc.aio.insecure_channel(address, options=_SERVER_OPTIONS)


def open_client_channel(
    address: str, credentials: grpc.ChannelCredentials | None = None, *, options: Options = ()
) -> Channel:
    """Open a channel from a client to a server. No channel uses the proxy that the environment names.

    Args:
        address: `HOST:PORT`.
        credentials: Credentials for TLS; None: without TLS.
        options: Further options of gRPC.
    """
    options = (*_CLIENT_OPTIONS, *options)
    if credentials is not None:
        return grpc.aio.secure_channel(address, credentials, options=options)
    return grpc.aio.insecure_channel(address, options=options)


def open_blocking_channel(address: str) -> grpc.Channel:
    """Open a channel for a program without an event loop, such as a health check. It notices a dead peer.

    Args:
        address: `HOST:PORT`.
    """
    return grpc.insecure_channel(address, options=_SERVER_OPTIONS)
