"""Ports: reserved before a server starts, so that a port in use is named at once and a free one stays free."""

from __future__ import annotations

import socket
import sys

from diptych.server.port_user import listen_error


class PortTaken(Exception):
    """An address that no server can listen on. The message names it."""


class Reservation:
    """A port that no other program gets before our server listens on it, or while our server restarts.

    On Linux a bound socket that does not listen excludes other programs from the port. It does not hinder a server
    that sets SO_REUSEADDR, as gRPC and Python's HTTP server do. On other systems the port is only checked.

    Args:
        address: `HOST:PORT`; port 0 takes a free one.
        flag: Flag that gave the address, for the error.

    Raises:
        PortTaken: No server can listen on the address.
    """

    def __init__(self, address: str, flag: str = "--address") -> None:
        host, _, port = address.rpartition(":")
        try:
            addresses = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            family, kind, protocol, _, socket_address = addresses[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError as error:
            raise PortTaken(listen_error(address, error, flag)) from error
        try:
            self._socket.bind(socket_address)
        except OSError as error:
            self._socket.close()
            raise PortTaken(listen_error(address, error, flag)) from error
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        """Address with the port that the system chose for port 0."""
        if sys.platform != "linux":
            self._socket.close()

    def close(self) -> None:
        """Release the port."""
        self._socket.close()
