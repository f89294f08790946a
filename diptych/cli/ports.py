"""Ports: reserved before a server starts, so that a port in use is named at once and a free one stays free."""

from __future__ import annotations

import errno
import os
import socket
import sys


class PortTaken(Exception):
    """An address that no server can listen on. The message names it."""


class Reservation:
    """A port that no other program gets before our server listens on it, or while our server restarts.

    On Linux a bound socket that does not listen excludes other programs from the port. It does not hinder a server
    that sets SO_REUSEADDR, as gRPC and Python's HTTP server do. On other systems the port is only checked.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        try:
            addresses = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            family, kind, protocol, _, socket_address = addresses[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError as error:
            raise PortTaken(f"Cannot listen on {address}: {error.strerror}.") from error
        try:
            self._socket.bind(socket_address)
        except OSError as error:
            self._socket.close()
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(f"Cannot listen on {address}: another program uses the port.") from error
            raise PortTaken(f"Cannot listen on {address}: {os.strerror(error.errno or 0)}.") from error
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        """Address with the port that the system chose for port 0."""
        if sys.platform != "linux":
            self._socket.close()

    def close(self) -> None:
        """Release the port."""
        self._socket.close()
