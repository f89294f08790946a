"""`diptych contracts`: write the contracts as one descriptor set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from diptych.contract import generate as compiler
from diptych.contract.plain_descriptors import without_rules
from diptych.domain.package_origin import working_directory_first
from diptych.server.options import fail


def contracts(
    protos: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Folder of .proto files to compile; repeatable. Unset: the contracts that the domain ships.",
        ),
    ] = None,
    domain: Annotated[
        str,
        typer.Option(envvar="DIPTYCH_DOMAIN", help="Python package of the domain; `diptych` for the engine alone."),
    ] = "shop",
    plain: Annotated[bool, typer.Option("--plain", help="Leave the validation rules out.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write. Unset: stdout.")] = None,
    path: Annotated[
        bool, typer.Option("--path", help="Print the folder of the engine's .proto files, for protoc and editors.")
    ] = False,
) -> None:
    """Print one descriptor set (contracts.binpb) for protoc, buf, grpc-js and others."""
    if path:
        try:
            typer.echo(compiler.engine_protos())
        except compiler.ContractError as error:
            fail("contracts", str(error), status=1)
        return
    try:
        if protos:
            content = compiler.descriptor_set(protos)
        else:
            with working_directory_first(domain):
                content = compiler.shipped(domain)
        content = without_rules(content) if plain else content
    except compiler.ContractError as error:
        fail("contracts", str(error), status=1)
    if out is None and sys.stdout.isatty():
        fail("contracts", "a descriptor set is not text for a terminal. Give --out FILE, or redirect stdout.")
    try:
        if out is None:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        else:
            out.write_bytes(content)
    except OSError as error:
        fail("contracts", f"{out or 'stdout'} cannot be written: {error.strerror}.", status=1)
