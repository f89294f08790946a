"""`python -m shop.payments`: run the provider until it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from shop.payments.ledger import Ledger
from shop.payments.service import serve


def main(
    address: Annotated[
        str, typer.Option(envvar="SHOP_PAYMENTS", help="HOST:PORT to listen on; port 0 takes a free one.")
    ] = "127.0.0.1:50061",
    ledger: Annotated[Path, typer.Option(help="File of the ledger; its folder is created if it is missing.")] = Path(
        "data/payments.jsonl"
    ),
) -> None:
    """Run a small provider of payments for the shop.

    Give its address to the command server in SHOP_PAYMENTS. The rpc SetFault of shop.payments.v1.PaymentService
    makes it fail.
    """
    _end_with_parent()
    try:
        asyncio.run(_main(address, ledger))
    except (OSError, RuntimeError) as error:
        print(f"shop.payments: {error}", file=sys.stderr, flush=True)
        raise typer.Exit(1) from None


def _end_with_parent() -> None:
    """Kill this process when its standard input ends, if the parent process set DIPTYCH_LEASH."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    if os.environ.pop("DIPTYCH_LEASH", None) is not None:
        threading.Thread(target=watch, daemon=True).start()


async def _main(address: str, path: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
    ledger = await asyncio.to_thread(Ledger, path)
    try:
        await serve(address, ledger, stop, lambda bound: print(f"shop.payments ready address={bound}", flush=True))
    finally:
        ledger.close()


if __name__ == "__main__":
    typer.run(main)
