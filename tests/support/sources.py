"""Source files: the modules of this repository that are written by hand."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
"""Folder of the checkout."""


class Module(NamedTuple):
    """One module of this repository that is not generated."""

    path: Path
    name: str

    @property
    def file(self) -> str:
        """Path of the module below the repository's root."""
        return self.path.relative_to(ROOT).as_posix()


@functools.cache
def modules(*packages: str) -> tuple[Module, ...]:
    """Return the modules of some packages."""
    all_modules = []
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not path.stem.endswith(("_pb2", "_pb2_grpc")):
                parts = path.relative_to(ROOT).with_suffix("").parts
                all_modules.append(Module(path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)))
    return tuple(all_modules)
