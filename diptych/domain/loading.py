"""Loading of a domain: import, checks against its contracts, and lookup tables for the servers."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf.message import Message

from diptych.domain.aggregate import Aggregate, DeciderBinding
from diptych.domain.checks import check_declarations
from diptych.domain.domain import Domain
from diptych.domain.errors import DomainError
from diptych.domain.methods import bind_commands, bind_queries
from diptych.domain.package_origin import path_of, version_of, working_directory_first
from diptych.domain.places import declaration_place
from diptych.domain.process import STEPPED
from diptych.domain.state_codec import StateCodec


class LoadedDomain:
    """A domain that agrees with its contracts.

    Args:
        domain: The domain.
        path: The directory of its package.
        version: The version of the distribution that installed the package.

    Raises:
        DomainError: The domain disagrees with its contracts, or with itself.
    """

    def __init__(self, domain: Domain, *, path: Path | None = None, version: str | None = None) -> None:
        self.domain = domain
        self.name = domain.name
        self.path = path
        """The directory of the domain's package; None if the domain was not loaded from a package."""
        self.version = version
        """The version of the package's distribution; None if it is not installed."""
        self.codecs = {name: _codec(aggregate) for name, aggregate in domain.aggregates.items()}
        """Codecs of the states, by the aggregate's type."""
        self.event_types = event_types_of(domain)
        """Every event type that the log can have, old ones included, by full name."""
        self.deciders = _deciders(domain)
        """The deciders of all commands, internal ones included, by the full name of the command's type."""
        self.commands = bind_commands(domain, self.deciders)
        """The rpcs of the CommandService, by the full name of the command's type."""
        self.queries = bind_queries(domain)
        """The rpcs of the QueryService, by the full name of the request's type."""
        check_declarations(domain, self.event_types, self.deciders)

    @property
    def description(self) -> dict[str, str]:
        """The fields of a server's start event: name, path and version."""
        return {
            "domain": self.name,
            "domain_path": str(self.path) if self.path is not None else "no package",
            "domain_version": self.version or "not installed",
        }

    @property
    def command_service(self) -> str:
        """The full name of the domain's CommandService."""
        return f"{self.domain.package}.CommandService"

    @property
    def query_service(self) -> str:
        """The full name of the domain's QueryService."""
        return f"{self.domain.package}.QueryService"


def load(name: str) -> LoadedDomain:
    """Import and check a domain. A package in the working directory wins over an installed one.

    Args:
        name: The Python package that has the domain as its attribute `domain`.

    Raises:
        DomainError: There is no such package, it has no domain of its name, its contracts have not been generated, or
            the domain disagrees with them.
    """
    with working_directory_first(name):
        if importlib.util.find_spec(name) is None:
            raise DomainError(
                f"There is no Python package {name} to load the domain from: it is not installed, and the working "
                "directory does not have it. Install it (`pip install diptych-shop` for the shop), or change to its "
                "directory."
            )
        module = _import(name)
        domain = getattr(module, "domain", None)
        if not isinstance(domain, Domain):
            raise DomainError(f"Package {name} has no `domain`, a diptych.Domain.")
        if domain.name != name.rpartition(".")[2]:
            raise DomainError(
                f"Package {name} holds the domain {domain.name}; the names must be the same.", domain.location
            )
        _import_contracts(name)
    path = path_of(module)
    version = version_of(path) if path is not None and "." not in name else None
    return LoadedDomain(domain, path=path, version=version)


def _import(name: str) -> ModuleType:
    """Import a domain's package. Raise `DomainError` for a wrong declaration, with its file and line."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{error.name}.".startswith(f"{name}.v1."):
            raise
        raise _not_generated(name, error) from error
    except (TypeError, ValueError) as error:
        place = declaration_place(error)
        if not place:
            raise
        raise DomainError(str(error), place) from error


def _not_generated(name: str, error: ModuleNotFoundError) -> DomainError:
    return DomainError(
        f"The contracts of {name} have not been generated: {error}. Run `diptych generate PROTOS --out DIR`, with the "
        f"folder of {name}/v1/*.proto and the folder of the package {name}."
    )


def _import_contracts(name: str) -> None:
    """Import the domain's generated modules, so that the descriptor pool has their descriptors."""
    try:
        package = importlib.import_module(f"{name}.v1")
    except ModuleNotFoundError as error:
        raise _not_generated(name, error) from error
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.endswith("_pb2"):
            importlib.import_module(f"{name}.v1.{module.name}")


def _codec(aggregate: Aggregate[Any]) -> StateCodec[Any]:
    try:
        return StateCodec(type(aggregate.initial))
    except TypeError as error:
        raise DomainError(
            f"The state of aggregate {aggregate.type} has no codec: {error}", aggregate.location
        ) from error


def event_types_of(domain: Domain) -> dict[str, type[Message]]:
    """Return every event type that the log can have. Raise `DomainError` for one that two aggregates have."""
    kinds: dict[str, type[Message]] = {}
    for aggregate in domain.aggregates.values():
        for name, (kind, evolve) in aggregate.evolvers.items():
            if name in kinds and name != STEPPED:
                raise DomainError(f"Event {name} is evolved by two aggregates; an event belongs to one.", evolve)
            kinds[name] = kind
    for aggregate in domain.aggregates.values():
        for name, upcaster in aggregate.upcasters.items():
            if name in kinds:
                raise DomainError(
                    f"Event {name}, which {aggregate.type} upcasts, is evolved or upcast as well.", upcaster.upcast
                )
            kinds[name] = upcaster.event
    return kinds


def _deciders(domain: Domain) -> dict[str, DeciderBinding]:
    """Return the deciders of all aggregates. Raise `DomainError` for a command that two aggregates decide."""
    deciders: dict[str, DeciderBinding] = {}
    for aggregate in domain.aggregates.values():
        for name, binding in aggregate.deciders.items():
            if name in deciders:
                other = deciders[name].aggregate.type
                raise DomainError(
                    f"Command {name} is decided by two aggregates, {other} and {aggregate.type}.", binding.decide
                )
            deciders[name] = binding
    return deciders
