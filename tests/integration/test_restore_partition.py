"""Reads after a restore by a query server whose link to the command server is cut."""

from __future__ import annotations

import asyncio

from google.type.money_pb2 import Money

from diptych.client import Connection
from diptych.contract.token import Token
from diptych.v1.read_model_pb2 import WaitOutcome
from shop.v1.product_commands_pb2 import ChangePriceRequest, CreateProductRequest
from shop.v1.product_queries_pb2 import GetProductRequest
from tests.history.proxy import Proxy
from tests.integration.test_backup import LONG, applied, diptych, refused, restored
from tests.support.pair import Pair


def pounds(units: int) -> Money:
    return Money(currency_code="GBP", units=units)


async def test_bug_lost_rows_proved_a_token_after_a_restore_that_was_not_noticed(pair: Pair) -> None:
    async with Proxy(pair.command.address) as proxy:
        query = await asyncio.to_thread(pair.another_query_server, proxy.address)
        async with Connection(pair.command.address, query.address, timeout_seconds=LONG) as shop:
            tea = CreateProductRequest(product_id="tea", name="Tea", category="drinks", price=pounds(1))
            await shop.execute(tea)
            backup = pair.data / "backup.db"
            done = await diptych("backup", f"--to={backup}", f"--log=sqlite:///{pair.data / 'log.db'}")
            assert done.returncode == 0, done.stderr
            prices = [ChangePriceRequest(product_id="tea", price=pounds(price)) for price in range(2, 12)]
            lost = [(await shop.execute(change)).result for change in prices][-1]
            await applied(pair, Token.parse(lost.token).position)
            await shop.query(GetProductRequest(product_id="tea"), token=lost.token)

            proxy.refusing = True
            proxy.cut()
            await restored(pair, backup)
            change = ChangePriceRequest(product_id="tea", price=pounds(500))
            written = (await shop.execute(change, request_id="after", timeout_seconds=LONG)).result
            assert Token.parse(written.token).epoch == 2

            for seconds in (0.5, 2, 2):
                wait = await shop.wait_for(written.token, "products", timeout_seconds=seconds)
                assert wait.outcome in (WaitOutcome.WAIT_OUTCOME_TIMED_OUT, WaitOutcome.WAIT_OUTCOME_STALLED)
                refusal = await refused(
                    shop.query(GetProductRequest(product_id="tea"), token=written.token, timeout_seconds=seconds)
                )
                assert refusal.reason in ("READ_MODEL_BEHIND", "READ_MODEL_STALLED"), str(refusal)
