"""Options that several commands share: the addresses of the servers, and the domain."""

from __future__ import annotations

from typing import Annotated

import typer

Commands = Annotated[
    str,
    typer.Option("--commands", envvar="DIPTYCH_COMMANDS", metavar="HOST:PORT", help="Address of the command server."),
]
Query = Annotated[
    str, typer.Option("--query", envvar="DIPTYCH_QUERY", metavar="HOST:PORT", help="Address of the query server.")
]
Projector = Annotated[
    str, typer.Option("--projector", envvar="DIPTYCH_PROJECTOR", metavar="HOST:PORT", help="Address of the projector.")
]
Domain = Annotated[
    str,
    typer.Option(
        "--domain",
        help="Python package of the domain, whose contracts name the fields. Unset: those that the server describes.",
    ),
]

COMMANDS = "127.0.0.1:50051"
QUERY = "127.0.0.1:50052"
PROJECTOR = "127.0.0.1:50053"
