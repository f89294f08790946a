"""h2load, Debian's load generator for HTTP/2: unary calls by a client that is not written in Python.

gRPC's framing of a message is five bytes, and h2load posts a file unchanged.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path


class H2LoadFailed(Exception):
    """Calls failed; the message is h2load's output."""


def unary_rate(
    address: str, path: str, request: bytes, folder: Path, *, clients: int, streams: int, seconds: int
) -> float | None:
    """Return calls per second; None if h2load is not installed.

    Raises:
        H2LoadFailed: A call had another HTTP status than 2xx.
    """
    if shutil.which("h2load") is None:
        return None
    body = folder / "request.bin"
    body.write_bytes(b"\0" + struct.pack(">I", len(request)) + request)
    command = [
        "h2load",
        f"--duration={seconds}",
        f"--clients={clients}",
        f"--max-concurrent-streams={streams}",
        "--threads=1",
        f"--data={body}",
        "--header=content-type: application/grpc",
        "--header=te: trailers",
        f"http://{address}{path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
    found = re.search(r"finished in [\d.]+s, ([\d.]+) req/s", done.stdout)
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
    if found is None or statuses is None or any(map(int, statuses.groups()[1:])):
        raise H2LoadFailed(done.stdout + done.stderr)
    return float(found[1])
