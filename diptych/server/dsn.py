"""DSNs of databases: the one place that makes a path of a DSN and a DSN of a path.

Within a DSN, `%`, `?` and `#` of a path are written `%25`, `%3F` and `%23`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

_SQLITE = "sqlite:///"
_EXAMPLE = "sqlite:///data/log.db"
_ESCAPES = str.maketrans({character: f"%{ord(character):02X}" for character in "%?#"})


def sqlite_dsn(path: Path) -> str:
    """Return the DSN of an SQLite file; its path may have any characters."""
    return _SQLITE + str(path).translate(_ESCAPES)


def sqlite_path(dsn: str) -> Path:
    """Return the path of the file that a checked SQLite DSN names."""
    return Path(unquote(dsn.removeprefix(_SQLITE)))


def without_password(dsn: str) -> str:
    """Return a DSN for log lines, its password replaced by ***."""
    return make_url(dsn).render_as_string(hide_password=True)


def check_dsn(dsn: str) -> str:
    """Return the DSN unchanged. Raise `ValueError` unless it names an SQLite file and nothing else."""
    try:
        url = make_url(dsn)
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"must be a DSN, such as {_EXAMPLE}") from error
    if url.drivername != "sqlite":
        raise ValueError(f"{url.drivername} is not served; use sqlite:///FILE")
    if url.host or url.username or url.password or url.port:
        # Two slashes begin the name of a host.
        path = dsn.partition("://")[2]
        raise ValueError(f"needs three slashes before a path; use sqlite:///{path}, or sqlite:////{path} from the root")
    if not url.database or url.database == ":memory:" or not dsn.startswith(_SQLITE):
        raise ValueError(f"must name a file, such as {_EXAMPLE}")
    if "?" in dsn:
        raise ValueError("takes no parameters; write a ? in a path as %3F")
    if "\0" in unquote(dsn):
        raise ValueError("must not contain the character NUL")
    return dsn


Dsn = Annotated[str, AfterValidator(check_dsn)]
"""A setting that names a database."""
