"""Origin of a Python package: its directory and the distribution that installed it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlparse


@contextmanager
def working_directory_first(package: str) -> Iterator[None]:
    """Import a package from the working directory in preference to an installed one, if the directory has it.

    Args:
        package: The name of the package, whose first part is looked for in the working directory.
    """
    directory = Path.cwd()
    top = package.partition(".")[0]
    if not ((directory / top / "__init__.py").is_file() or (directory / f"{top}.py").is_file()):
        yield
        return
    importlib.invalidate_caches()
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))


def path_of(module: ModuleType) -> Path | None:
    """Return the directory of a package, or the file of a module; None if it has no file."""
    if module.__file__ is None:
        return None
    path = Path(module.__file__).resolve()
    return path.parent if path.name == "__init__.py" else path


def version_of(path: Path) -> str | None:
    """Return the version of the distribution that installed a top-level package; None if none did.

    Args:
        path: The directory of the package.
    """
    for distribution in metadata.distributions(path=[str(path.parent)]):
        record = distribution.read_text("RECORD") or ""
        if any(line.startswith((f"{path.name}/", f"{path.name},")) for line in record.splitlines()):
            return distribution.version
    project = next((folder for folder in (path, *path.parents) if (folder / "pyproject.toml").is_file()), None)
    for distribution in metadata.distributions() if project is not None else ():
        if _editable_project(distribution) == project:
            return distribution.version
    return None


def _editable_project(distribution: metadata.Distribution) -> Path | None:
    """Return the project directory of an editable installation; None for any other."""
    direct_url = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not direct_url.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlparse(direct_url["url"]).path)).resolve()
