"""Reservations of ports."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from diptych.cli.ports import PortTaken, Reservation
from diptych.server.port_user import describe_port_user


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not show the program")
def test_a_port_in_use_is_named_with_its_program_and_the_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(PortTaken) as taken:
            Reservation(address, "--query-address")
    assert str(taken.value).startswith(f"Cannot listen on {address}: ")
    assert f"(pid {os.getpid()}) uses the port. --query-address sets the address" in str(taken.value)


def test_a_port_that_is_reserved_is_used_by_another_program() -> None:
    reservation = Reservation("127.0.0.1:0")
    assert describe_port_user(reservation.address) == "another program uses the port"
    reservation.close()


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(PortTaken, match=r"Cannot listen on 192\.0\.2\.1:1234: Cannot assign requested address"):
        Reservation("192.0.2.1:1234")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot reserve a port")
def test_a_reserved_port_is_free_for_our_server_only() -> None:
    reservation = Reservation("127.0.0.1:0")
    host, _, port = reservation.address.rpartition(":")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((host, int(port)))
    with socket.create_server((host, int(port))):  # It sets SO_REUSEADDR, as gRPC does.
        pass
    reservation.close()
