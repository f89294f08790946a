"""Digest of the code that makes the rows of a projection.

The digest covers, for every view: the names of its events, their key functions, `reads` and folds, and the columns; and
the upcasters of those events. Of each function it covers bytecode, constants and names, of nested functions too, and
the functions and plain constants of the same top-level package that it uses by name, in turn. Docstrings, comments and
line numbers do not count. Methods of objects, other packages and data that is read at run time are not covered.

Bytecode is stable within a minor version of Python. Digests of two minor versions cannot be compared.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any

from diptych.domain.aggregate import Aggregate, UniqueBinding
from diptych.domain.projection import Projection

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_PLAIN = (str, int, float, bool, bytes, type(None))


def code_digest(projection: Projection) -> str:
    """Return the digest of a projection's code, after the minor version of Python: `3.11:0123456789abcdef`."""
    digest = _Digest()
    for view in projection.views:
        digest.add("view", view.name)
        for name, handler in sorted(view.handlers.items()):
            digest.add("event", name)
            for function in (handler.key, handler.reads, handler.fold):
                digest.add_function(function)
        for column in view.columns.values():
            digest.add("column", column.name)
            digest.add_function(column.value)
    for name in sorted(projection.event_types & projection.upcasters.keys()):
        digest.add("upcaster", name)
        digest.add_function(projection.upcasters[name].upcast)
    return f"{_PYTHON}:{digest.hexdigest()}"


def unique_digest(aggregate: Aggregate[Any], unique: UniqueBinding) -> str:
    """Return the digest of the code that makes a unique value: its declared version, or a digest as `code_digest`.

    The digest covers the function, and the aggregate's evolvers and upcasters, which make its argument.
    """
    if unique.version:
        return f"version:{unique.version}"
    digest = _Digest()
    digest.add("unique", unique.name)
    digest.add_function(unique.value)
    for name, (_, evolve) in sorted(aggregate.evolvers.items()):
        digest.add("evolver", name)
        digest.add_function(evolve)
    for name, upcaster in sorted(aggregate.upcasters.items()):
        digest.add("upcaster", name)
        digest.add_function(upcaster.upcast)
    return f"{_PYTHON}:{digest.hexdigest()}"


def is_comparable(stored: str) -> bool:
    """Return True if a stored digest can be compared with digests of this Python."""
    return stored.partition(":")[0] == _PYTHON


class _Digest:
    """A digest of texts and functions, each function once."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._functions: set[int] = set()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()[:16]

    def add(self, *parts: object) -> None:
        """Add texts, bytes and numbers."""
        for part in parts:
            data = part if isinstance(part, bytes) else repr(part).encode("utf-8", "backslashreplace")
            self._hash.update(b"%d:" % len(data))
            self._hash.update(data)

    def add_function(self, function: Any) -> None:
        """Add a function with the functions and constants that it uses; None and unknown callables by their kind."""
        function = inspect.unwrap(function) if callable(function) else function
        if not isinstance(function, FunctionType):
            self.add("callable", type(function).__name__)
            return
        if id(function) in self._functions:
            self.add("function above")
            return
        self._functions.add(id(function))
        # The engine wraps functions of the author; its own code changes with its releases.
        is_engine = (function.__module__ or "").startswith("diptych.")
        if not is_engine:
            self._add_code(function.__code__, function.__doc__)
            for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
                self._add_value(default, function)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # The variable has no value yet.
                continue
            self.add("variable", name)
            self._add_value(value, function)
        for name in [] if is_engine else sorted(_global_names(function.__code__)):
            if name in function.__globals__:
                self.add("global", name)
                self._add_value(function.__globals__[name], function)

    def _add_value(self, value: Any, user: FunctionType) -> None:
        """Add a value that a function uses: a function of the same package, or a plain constant."""
        target = inspect.unwrap(value) if callable(value) and not isinstance(value, type) else value
        if isinstance(target, FunctionType):
            package = (user.__module__ or "").partition(".")[0]
            if package == "diptych" or (target.__module__ or "").partition(".")[0] == package:
                self.add_function(target)
        elif isinstance(target, _PLAIN) or (
            isinstance(target, tuple | frozenset) and all(isinstance(one, _PLAIN) for one in target)
        ):
            self.add(sorted(map(repr, target)) if isinstance(target, frozenset) else target)
        elif isinstance(target, BuiltinFunctionType):
            self.add(target.__name__)

    def _add_code(self, code: CodeType, doc: str | None) -> None:
        self.add(code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_argcount)
        for index, constant in enumerate(code.co_consts):
            if isinstance(constant, CodeType):
                self._add_code(constant, None)
            elif isinstance(constant, frozenset):
                self.add(sorted(map(repr, constant)))
            elif not (index == 0 and doc is not None and constant == doc):
                self.add(constant)


def _global_names(code: CodeType) -> set[str]:
    """Return the names that a function and its nested functions use."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names
