"""Source of a domain: the folder and the version that a server would load."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

from diptych.domain.package_origin import version_of, working_directory_first


class DomainSource(NamedTuple):
    """Folder and version of a domain's package."""

    folder: Path
    version: str | None
    """Version of the distribution that installed the package; None if none did."""

    def __str__(self) -> str:
        return f"{self.version} from {self.folder}" if self.version else f"from {self.folder}"


def find_domain(package: str) -> DomainSource | None:
    """Return the source of the domain in a Python package, which is not imported; None if there is no such package."""
    with working_directory_first(package):
        spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]).resolve()
    return DomainSource(folder, version_of(folder))
