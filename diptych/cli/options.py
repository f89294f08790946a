"""Settings as options: a field of a settings model is a flag, an environment variable and a key of a file."""

from __future__ import annotations

import inspect
import os
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

S = TypeVar("S", bound=BaseSettings)

_PREFIX = "DIPTYCH_"


def fail(program: str, sentence: str, status: int = 2) -> NoReturn:
    """Ends the program with a sentence on stderr."""
    typer.echo(f"diptych {program}: {sentence}", err=True)
    raise typer.Exit(status)


def with_settings(program: str, model: type[S], *known: type[BaseSettings]) -> Callable[..., Callable[..., None]]:
    """Makes a command of a function of settings, whose result is the exit status.

    Of a setting's places the flag comes first, then the environment, the file, the default. A file can serve
    several programs: its top holds what is for all of them (`known`: their models), and a table named after a
    program what is for that one.
    """

    def decorate(run: Callable[[S], int]) -> Callable[..., None]:
        def command(context: typer.Context, config: Path | None = None, **given: Any) -> None:
            values = {name: value for name, value in given.items() if value is not None}
            places = {name: _place(context, name) for name in values}
            if config is not None:
                os.environ[f"{_PREFIX}CONFIG"] = str(config)  # For the programs that this one starts.
                for name, (value, place) in _from_file(program, config, model, known).items():
                    if name not in values:
                        values[name], places[name] = value, place
            try:
                settings = model(**values)
            except ValidationError as error:
                fail(program, " ".join(_sentences(error, places)))
            raise typer.Exit(run(settings))

        command.__doc__ = run.__doc__
        command.__signature__ = _signature(model)  # type: ignore[attr-defined]
        command.__annotations__ = {}
        return command

    return decorate


def _signature(model: type[BaseSettings]) -> inspect.Signature:
    """A signature from which typer makes the options."""
    file = Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar=f"{_PREFIX}CONFIG",
            metavar="FILE",
            help="TOML file with any of these settings, under their names with underscores.",
            show_default=False,
        ),
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            inspect.Parameter("context", keyword, annotation=typer.Context),
            *(
                inspect.Parameter(name, keyword, default=None, annotation=_option(name, field))
                for name, field in model.model_fields.items()
            ),
            inspect.Parameter("config", keyword, default=None, annotation=file),
        ]
    )


def _option(name: str, field: FieldInfo) -> Any:
    switch = field.annotation is bool
    default = "" if field.default is None or switch else f" Default: {field.default}."
    # Text, whatever the type: the model checks, so that flags, environment and file are judged alike.
    return Annotated[
        (bool if switch else str) | None,
        typer.Option(
            f"--{name.replace('_', '-')}",
            envvar=f"{_PREFIX}{name.upper()}",
            metavar=None if switch else _metavar(field),
            help=f"{field.description}{default}",
            show_default=False,
        ),
    ]


def _metavar(field: FieldInfo) -> str:
    """What stands for a value in the help."""
    kind = field.annotation
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(each for each in typing.get_args(kind) if each is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(map(str, typing.get_args(kind)))
    return {int: "NUMBER", float: "NUMBER"}.get(kind, "TEXT") if isinstance(kind, type) else "TEXT"


def _place(context: typer.Context, name: str) -> str:
    source = context.get_parameter_source(name)
    if source is not None and source.name == "ENVIRONMENT":
        return f"{_PREFIX}{name.upper()}"
    return f"--{name.replace('_', '-')}"


def _from_file(
    program: str, path: Path, model: type[BaseSettings], known: tuple[type[BaseSettings], ...]
) -> dict[str, tuple[Any, str]]:
    """What a file sets for this program: the value and where it stands."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        fail(program, f"--config: {path} cannot be read: {error}.")
    found: dict[str, tuple[Any, str]] = {}
    own: Mapping[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            if key == program:
                own = value
        elif key in model.model_fields:
            found[key] = (value, f"{key} in {path}")
        elif not any(key in other.model_fields for other in known):
            fail(program, f"{key} in {path} is no setting.")
    for key, value in own.items():
        if key not in model.model_fields:
            fail(program, f"{key} in [{program}] of {path} is no setting of this program.")
        found[key] = (value, f"{key} in [{program}] of {path}")
    return found


def _sentences(error: ValidationError, places: Mapping[str, str]) -> list[str]:
    sentences = []
    for each in error.errors(include_url=False):
        name = str(each["loc"][0]) if each["loc"] else ""
        place = places.get(name, f"--{name.replace('_', '-')}" if name else "settings")
        problem = each["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        if each["type"] == "missing":
            sentences.append(f"{place} must be given.")
        else:
            sentences.append(f"{place}: {problem}, not {str(each['input'])!r}.")
    return sentences
