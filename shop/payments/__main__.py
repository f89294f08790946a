"""`python -m shop.payments`: runs the provider until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.leash import hold_leash
from shop.payments.ledger import Ledger
from shop.payments.service import serve


def main(
    address: Annotated[
        str, typer.Option(envvar="SHOP_PAYMENTS", help="HOST:PORT to listen on; port 0 takes a free one.")
    ] = "127.0.0.1:50061",
    ledger: Annotated[Path, typer.Option(help="File of the ledger; its folder is made.")] = Path("data/payments.jsonl"),
) -> None:
    """A small provider of payments to run the shop with.

    Tell the command server where it is by SHOP_PAYMENTS. How it is to fail it is told by the rpc SetFault
    of shop.payments.v1.PaymentService.
    """
    hold_leash()
    try:
        asyncio.run(_main(address, ledger))
    except (OSError, RuntimeError) as error:
        print(f"shop.payments: {error}", file=sys.stderr, flush=True)
        raise typer.Exit(1) from None


async def _main(address: str, path: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
    ledger = await asyncio.to_thread(Ledger, path)
    try:
        await serve(address, ledger, stop, lambda found: print(f"shop.payments ready address={found}", flush=True))
    finally:
        ledger.close()


if __name__ == "__main__":
    typer.run(main)
