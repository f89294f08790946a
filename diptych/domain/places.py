"""Places of an author's functions in the source, for errors."""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from pathlib import Path
from types import CodeType
from typing import Any

_ENGINE = str(Path(__file__).resolve().parent)


def place_of(handler: Any) -> str:
    """Return file and first line of a function, as `library/copies.py:40`; empty if it has none.

    The file is relative to the working directory if it is below it.
    """
    code = _code_of(handler)
    return _file_and_line(code.co_filename, code.co_firstlineno) if code is not None else ""


def named(handler: Any) -> str:
    """Return name and place of a function, as `borrow (library/copies.py:40)`."""
    code = _code_of(handler)
    if code is None:
        return repr(handler)
    return f"{code.co_name} ({_file_and_line(code.co_filename, code.co_firstlineno)})"


def calling_place() -> str:
    """Return file and line of the author's statement that calls the engine; empty if the engine calls itself."""
    frame = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_ENGINE):
            return _file_and_line(frame.f_code.co_filename, frame.f_lineno)
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


def declaration_place(error: BaseException) -> str:
    """Return file and line of the author's statement in which the engine raised an exception.

    Empty if the author's own code raised it.
    """
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if not places or not places[-1][0].startswith(_ENGINE):
        return ""
    return next((_file_and_line(file, line) for file, line in reversed(places) if not file.startswith(_ENGINE)), "")


def _code_of(handler: Any) -> CodeType | None:
    """Return the code of a function, of a partial's function, or of a callable object's `__call__`."""
    while True:
        if isinstance(handler, functools.partial):
            handler = handler.func
        elif hasattr(handler, "__wrapped__"):
            handler = inspect.unwrap(handler)
        else:
            break
    code = getattr(handler, "__code__", None)
    if code is None and not isinstance(handler, type):
        code = getattr(type(handler).__dict__.get("__call__"), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _file_and_line(file: str, line: int) -> str:
    path = Path(file)
    directory = Path.cwd()
    return f"{path.relative_to(directory) if path.is_relative_to(directory) else path}:{line}"
