"""Ports: taken ones are named before anything is started, and free ones are kept for who is to listen."""

from __future__ import annotations

import errno
import os
import socket
import sys


class PortTaken(Exception):
    """An address that cannot be listened on; the message names it."""


class Reservation:
    """A port that nobody else gets while a server of ours is not listening on it yet, or is being restarted.

    On Linux a bound socket that does not listen keeps other programs off the port, and does not hinder a
    server that sets SO_REUSEADDR, as gRPC and Python's HTTP server do. Elsewhere the port is only looked up.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[
                0
            ]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError as error:
            raise PortTaken(f"Cannot listen on {address}: {error.strerror}.") from error
        try:
            self._socket.bind(where)
        except OSError as error:
            self._socket.close()
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(f"Cannot listen on {address}: another program uses the port.") from error
            raise PortTaken(f"Cannot listen on {address}: {os.strerror(error.errno or 0)}.") from error
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        """The address with the port that it really has."""
        if sys.platform != "linux":
            self._socket.close()

    def close(self) -> None:
        """Lets the port go."""
        self._socket.close()
