"""`diptych generate`: make Python modules of a domain's contracts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diptych.contract import generate as compiler
from diptych.server.options import fail


def generate(
    protos: Annotated[
        Path, typer.Argument(metavar="PROTOS", help="Folder of the contracts, which holds DOMAIN/v1/*.proto.")
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder of the Python package DOMAIN; the modules go to DIR/DOMAIN/v1."),
    ] = Path(),
) -> None:
    """Make Python modules of a domain's contracts. The engine's contracts need no copy."""
    try:
        modules = compiler.generate(protos, out)
    except compiler.ContractError as error:
        fail("generate", str(error), status=1)
    except OSError as error:
        fail("generate", f"{error.filename or out} cannot be written: {error.strerror}.", status=1)
    for module in modules:
        typer.echo(module)
