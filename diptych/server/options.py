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
    """Write a sentence to stderr and end the program.

    Args:
        program: Command that failed, such as `backup`.
        sentence: The fact, its cause and the remedy.
        status: Exit status; 2 for settings and arguments, 1 for everything else.
    """
    typer.echo(f"diptych {program}: {sentence}", err=True)
    raise typer.Exit(status)


def with_settings(
    program: str, model: type[S], *shared_models: type[BaseSettings]
) -> Callable[[Callable[[S], int]], Callable[..., None]]:
    """Return a decorator that makes a command of a function of settings.

    The decorated function returns the exit status. For each setting a flag wins over the environment, which wins over
    the file, which wins over the default. One file can serve several programs: its top level holds the settings of all
    of them, and a table named after a program holds the settings of that program.

    Args:
        program: Name of the command and of its table in a file.
        model: Settings of this program.
        shared_models: Models of the other programs. Their keys may be at the top level of the file.
    """

    def decorate(run: Callable[[S], int]) -> Callable[..., None]:
        def command(context: typer.Context, config: Path | None = None, **options: Any) -> None:
            values = {name: value for name, value in options.items() if value is not None}
            sources = {name: _source(context, name) for name in values}
            if config is not None:
                os.environ[f"{_PREFIX}CONFIG"] = str(config)  # For the child processes of this program.
                for name, (value, source) in _from_file(program, config, model, shared_models).items():
                    if name not in values:
                        values[name], sources[name] = value, source
            try:
                settings = model(**values)
            except ValidationError as error:
                fail(program, " ".join(_sentences(error, sources)))
            raise typer.Exit(run(settings))

        command.__doc__ = run.__doc__
        command.__signature__ = _signature(model)  # type: ignore[attr-defined]
        command.__annotations__ = {}
        return command

    return decorate


def _signature(model: type[BaseSettings]) -> inspect.Signature:
    """Return the signature from which typer makes the options."""
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
    # The option takes text of any kind: the model checks flags, environment and file by the same rules.
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
    """Return the placeholder of a value in the help."""
    kind = field.annotation
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(each for each in typing.get_args(kind) if each is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(map(str, typing.get_args(kind)))
    return {int: "NUMBER", float: "NUMBER"}.get(kind, "TEXT") if isinstance(kind, type) else "TEXT"


def _source(context: typer.Context, name: str) -> str:
    """Return the flag or the environment variable that set an option."""
    source = context.get_parameter_source(name)
    if source is not None and source.name == "ENVIRONMENT":
        return f"{_PREFIX}{name.upper()}"
    return f"--{name.replace('_', '-')}"


def _from_file(
    program: str, path: Path, model: type[BaseSettings], shared_models: tuple[type[BaseSettings], ...]
) -> dict[str, tuple[Any, str]]:
    """Return the file's settings for this program: each value with its source."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        fail(program, f"--config: {path} cannot be read: {error.strerror or error}.")
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        fail(program, f"--config: {path} cannot be read: {error}.")
    settings: dict[str, tuple[Any, str]] = {}
    own: Mapping[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            if key == program:
                own = value
        elif key in model.model_fields:
            settings[key] = (value, f"{key} in {path}")
        elif not any(key in other.model_fields for other in shared_models):
            fail(program, f"{key} in {path} is not a setting.")
    for key, value in own.items():
        if key not in model.model_fields:
            fail(program, f"{key} in [{program}] of {path} is not a setting of this program.")
        settings[key] = (value, f"{key} in [{program}] of {path}")
    return settings


def _sentences(error: ValidationError, sources: Mapping[str, str]) -> list[str]:
    """Return one sentence for each setting that is wrong."""
    sentences = []
    for each in error.errors(include_url=False):
        name = str(each["loc"][0]) if each["loc"] else ""
        source = sources.get(name, f"--{name.replace('_', '-')}" if name else "settings")
        problem = each["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        if each["type"] == "missing":
            sentences.append(f"{source} must be given.")
        else:
            sentences.append(f"{source}: {problem}, not {str(each['input'])!r}.")
    return sentences
