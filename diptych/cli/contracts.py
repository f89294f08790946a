"""`diptych contracts`: the contracts as one descriptor set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from diptych.contract import generate as compiler
from diptych.server.options import fail


def contracts(
    protos: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Folder of .proto files to compile; repeatable. Unset: the shop's, as shipped.",
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Leave the validation rules out.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write. Unset: stdout.")] = None,
) -> None:
    """Prints one descriptor set (contracts.binpb) for protoc, buf, grpc-js and others."""
    try:
        if protos:
            content = compiler.descriptor_set(protos, plain=plain)
        else:
            content = compiler.without_rules(compiler.shipped()) if plain else compiler.shipped()
    except compiler.ContractError as error:
        fail("contracts", str(error), status=1)
    if out is None and sys.stdout.isatty():
        fail("contracts", "a descriptor set is no text for a terminal: say --out FILE, or send it to a file.")
    try:
        if out is None:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        else:
            out.write_bytes(content)
    except OSError as error:
        fail("contracts", f"{out or 'stdout'} cannot be written: {error.strerror}.", status=1)
