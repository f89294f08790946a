"""User of a port: the program that listens on it, for the message about a port that is taken."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"
"""State of a listening socket in `/proc/net/tcp`."""
_PROC = Path("/proc")


def describe_port_user(address: str) -> str:
    """Return a clause such as `python (pid 4711) uses the port`.

    It says `another program uses the port` where the system does not show the program: on other systems than Linux,
    for programs of other users, and for a port that is reserved and not listened on.

    Args:
        address: `HOST:PORT`.
    """
    user = None
    with suppress(OSError, ValueError):
        user = _user_of(int(address.rpartition(":")[2]))
    return f"{user} uses the port" if user else "another program uses the port"


def listen_error(address: str, error: OSError, flag: str) -> str:
    """Return a sentence on an address that no server can listen on: the cause, and the flag that changes it.

    Args:
        address: `HOST:PORT`.
        error: Error of the system.
        flag: Flag that gave the address, such as `--metrics-address`.
    """
    if isinstance(error, socket.gaierror):
        cause = f"the host is not known ({error.strerror})"
    elif error.errno is not None and "in use" in (error.strerror or ""):
        cause = describe_port_user(address)
    else:
        cause = error.strerror or str(error)
    return f"Cannot listen on {address}: {cause}. {flag} sets the address; port 0 takes a free port."


def _user_of(port: int) -> str | None:
    """Return name and pid of the process that listens on a port; None if it cannot be found."""
    sockets = set(_listening_sockets(port))
    if not sockets:
        return None
    for folder in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            for descriptor in (folder / "fd").iterdir():
                with suppress(OSError):
                    if str(descriptor.readlink()) in sockets:
                        return f"{_program(folder)} (pid {folder.name})"
    return None


def _listening_sockets(port: int) -> list[str]:
    """Return the names of the sockets that listen on a port, as the links in `/proc/PID/fd` show them."""
    names = []
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text("ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    names.append(f"socket:[{fields[9]}]")
    return names


def _program(folder: Path) -> str:
    """Return the name of a process; for Python the module or script that it runs, too."""
    name = (folder / "comm").read_text("utf-8", "replace").strip()
    words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    if "-m" in words[:-1]:
        return f"{name} -m {words[words.index('-m') + 1]}"
    script = next((word for word in words[1:] if word and not word.startswith("-")), "")
    return f"{name} {Path(script).name}" if name.startswith("python") and script else name
