"""Retail import with real servers: agreement with the file, a kill in the middle, refusals, and the real file."""

from __future__ import annotations

import asyncio
import csv
import os
import re
import socket
import subprocess
import sys
from collections import defaultdict
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from diptych.client import Connection
from diptych.v1.read_model_pb2 import GetStatusRequest, GetStatusResponse
from shop.retail.commands import Commands
from shop.retail.reader import COLUMNS, InvoiceReader
from shop.v1.analytics_pb2 import OrderAnalytics
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest
from shop.v1.order_queries_pb2 import GetOrderAnalyticsRequest, GetOrderRequest
from shop.v1.product_commands_pb2 import CreateProductRequest
from shop.v1.product_queries_pb2 import GetProductRequest
from tests.support.pair import Pair
from tests.support.polling import eventually
from tests.support.programs import ROOT, Program

RETAIL = Path(os.environ.get("DIPTYCH_RETAIL_CSV") or ROOT.parent / "shared" / "data" / "online_retail_2010-12.csv")
AGREED = "The sums agree exactly."
DECEMBER, JANUARY = Timestamp(seconds=1_291_161_600), Timestamp(seconds=1_293_840_000)


def arguments(pair: Pair, file: Path, *options: str) -> list[str]:
    """Return the arguments for Python to run the import."""
    addresses = [f"--command-address={pair.command.address}", f"--query-address={pair.query.address}"]
    return ["-m", "shop.import_retail", str(file), *addresses, *options]


def import_file(pair: Pair, file: Path, *options: str) -> CompletedProcess[str]:
    """Run the import to its end."""
    command = [sys.executable, *arguments(pair, file, *options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def generated(path: Path, invoices: int) -> Path:
    """Write a file with every kind of invoice and return its path."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in range(invoices):
            is_return, is_correction = number % 7 == 3, number % 11 == 5
            sign = "-" if is_return or is_correction else ""
            for line in range(1 + number % 5):
                writer.writerow(
                    [
                        f"{'C' if is_return else ''}{1000 + number}",
                        f"P {(number * 3 + line) % 23}",
                        "" if number < 9 else f"Thing {line}",
                        f"{sign}{1 + line}",
                        f"2010-12-{1 + number % 28:02} 23:59:59",
                        f"{number % 4}.{number % 1000:03}",
                        "" if number % 3 else f"{number % 10}.0",
                        ("EIRE", "", "France")[number % 3],
                    ]
                )
    return path


def expected_events(file: Path) -> int:
    """Return the number of events of a whole import: one for each command."""
    commands = Commands()
    with file.open(encoding="utf-8", newline="") as opened:
        return sum(len(list(commands.of(invoice))) for invoice in InvoiceReader(opened))


async def head(shop: Connection) -> int:
    """Return the number of events in the log."""
    get_status = shop.queries.unary_unary(
        "/diptych.v1.ReadModelService/GetStatus",
        request_serializer=GetStatusRequest.SerializeToString,
        response_deserializer=GetStatusResponse.FromString,
    )
    answer: GetStatusResponse = await get_status(GetStatusRequest(), timeout=10)
    return answer.head_position


async def december(shop: Connection) -> OrderAnalytics:
    """Return the figures of December 2010."""
    answer: OrderAnalytics = await shop.query(GetOrderAnalyticsRequest(start_time=DECEMBER, end_time=JANUARY))
    return answer


def pounds(amount: Money) -> Decimal:
    return amount.units + Decimal(amount.nanos).scaleb(-9)


async def begun_by(program: Program, shop: Connection) -> None:
    """Wait until a running import has recorded more than 50 events."""

    async def has_begun() -> bool:
        assert program.running, program.logged()
        return await head(shop) > 50

    await eventually(has_begun, seconds=60, every=0.002)


async def test_a_killed_import_can_be_run_again_and_doubles_nothing(
    pair: Pair, shop: Connection, tmp_path: Path
) -> None:
    file = generated(tmp_path / "retail.csv", 600)
    all_events = expected_events(file)
    killed = Program(arguments(pair, file, "--window=1", "--batch=1"), log=tmp_path / "killed.log")
    killed.spawn()
    await begun_by(killed, shop)
    killed.kill()
    begun = await head(shop)
    assert 50 < begun < all_events, "it was not killed in the middle"

    again = import_file(pair, file)
    assert again.returncode == 0, again.stderr
    assert AGREED in again.stdout
    assert await head(shop) == all_events
    figures = await december(shop)

    third = import_file(pair, file)
    assert third.returncode == 0, third.stderr
    assert re.search(rf"duplicates +{all_events:,} ", third.stdout)
    assert await head(shop) == all_events
    assert await december(shop) == figures


async def test_an_import_completes_when_the_command_server_is_killed(
    pair: Pair, shop: Connection, tmp_path: Path
) -> None:
    file = generated(tmp_path / "retail.csv", 600)
    run = Program(arguments(pair, file, "--window=2", "--batch=1"), log=tmp_path / "import.log")
    run.spawn()
    await begun_by(run, shop)
    await pair.command.restart()
    assert run.running, "the import was done before the server was killed"
    assert await asyncio.to_thread(run.wait, 60) == 0, run.logged()
    assert await head(shop) == expected_events(file)


async def test_a_longer_file_goes_on_where_a_shorter_one_ended(pair: Pair, shop: Connection, tmp_path: Path) -> None:
    short = generated(tmp_path / "short.csv", 40)
    assert import_file(pair, short).returncode == 0
    long = generated(tmp_path / "long.csv", 90)
    assert import_file(pair, long, "--window=2", "--batch=7").returncode == 0
    assert await head(shop) == expected_events(long)


async def test_an_import_keeps_existing_records_and_reports_refusals(
    pair: Pair, shop: Connection, tmp_path: Path
) -> None:
    file = generated(tmp_path / "retail.csv", 3)
    price = Money(currency_code="GBP", units=5)
    await shop.execute(CreateProductRequest(product_id="P_0", name="Mine", price=price))
    item = ImportedItem(product_id="P_0", quantity=1, unit_price=price)
    await shop.execute(ImportOrderRequest(order_id="1001", order_time=DECEMBER, items=[item]))
    run = import_file(pair, file)
    assert run.returncode == 1
    assert "ImportOrder ORDER_EXISTS" in run.stdout
    assert "CreateProduct: what others had created" in run.stdout
    assert "DIFFERS" in run.stdout
    assert "The sums differ." in run.stderr
    assert (await shop.query(GetProductRequest(product_id="P_0"))).name == "Mine"


def test_an_import_without_servers_fails_with_the_cause(shared_pair: Pair, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        run = import_file(shared_pair, generated(tmp_path / "retail.csv", 3), f"--query-address={address}")
    assert run.returncode == 1
    assert f"No query server answers at {address}." in run.stderr


@pytest.mark.parametrize("content", ["", "InvoiceNo,StockCode\n1,2\n", None])
def test_an_import_of_an_invalid_file_ends_with_status_2(
    shared_pair: Pair, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "retail.csv"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    run = import_file(shared_pair, file)
    assert run.returncode == 2
    assert "retail.csv" in run.stderr
    assert "Traceback" not in run.stderr


def written(path: Path, *rows: str) -> Path:
    """Write a file of these rows, with a customer and a description of their own, and return its path."""
    path.write_text("\n".join([",".join(COLUMNS), *rows, ""]), encoding="utf-8")
    return path


def test_bug_an_import_of_nothing_but_left_out_rows_ended_with_status_0(pair: Pair, tmp_path: Path) -> None:
    file = written(tmp_path / "none.csv", "1,A,H,none,2010-12-01 08:26:00,1,,UK", "2,A,H,1,yesterday,1,,UK")
    run = import_file(pair, file)
    assert run.returncode == 1
    assert "No row of the file was imported" in run.stderr
    assert "first in line 3" in run.stdout


def test_bug_rows_with_faults_were_left_out_with_status_0(pair: Pair, tmp_path: Path) -> None:
    good = "1,A,H,1,2010-12-01 08:26:00,1,abc,UK"
    file = written(tmp_path / "some.csv", good, "2,A,H,1_000,2010-12-01 08:26:00,1,ABC,UK")
    run = import_file(pair, file)
    assert run.returncode == 1
    assert "The sums agree, but 1 rows were left out" in run.stderr
    assert "first in line 3" in run.stdout
    again = written(tmp_path / "good.csv", good, "2,A,H,1,2010-12-01 08:26:00,1,ABC,UK", "3,A,H,-1,?,,,")
    run = import_file(pair, again)
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    assert AGREED in run.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_bug_a_country_beyond_the_encoding_of_the_output_ended_an_import(
    pair: Pair, tmp_path: Path, encoding: str
) -> None:
    file = written(tmp_path / "retail.csv", "1,\u0141,H,1,2010-12-01 08:26:00,1,,\u0141\u00f3d\u017a")
    command = [sys.executable, *arguments(pair, file)]
    environ = {**os.environ, "PYTHONIOENCODING": encoding}
    run = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False, env=environ)
    assert run.returncode == 0, run.stderr
    assert b"\\u0141" in run.stdout


def test_bug_a_closed_output_was_told_as_an_unreadable_file(pair: Pair, tmp_path: Path) -> None:
    file = generated(tmp_path / "retail.csv", 20)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        command = [sys.executable, *arguments(pair, file)]
        run = subprocess.run(command, cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, timeout=60, check=False)
    assert run.returncode == 3
    assert run.stderr.decode() == (
        "import_retail: The report cannot be written: Broken pipe. Run it again: nothing is doubled.\n"
    )


@pytest.mark.skipif(
    not RETAIL.exists(), reason=f"The data set is not at {RETAIL}; DIPTYCH_RETAIL_CSV can say where it is."
)
async def test_the_real_file_is_imported_completely(pair: Pair, shop: Connection) -> None:
    run = import_file(pair, RETAIL)
    assert run.returncode == 0, run.stderr
    assert AGREED in run.stdout
    assert await head(shop) == expected_events(RETAIL)
    rows = _rows(RETAIL)
    await _figures_are_those_of(rows, shop)
    await _catalogue_is_that_of(rows, shop)
    order = await shop.query(GetOrderRequest(order_id="536365"))
    assert (order.customer_id, order.customer_email) == ("17850", "17850@retail.invalid")
    assert (order.country, order.order_time.seconds) == ("United Kingdom", 1_291_191_960)
    assert [item.product_name for item in order.items][:2] == [
        "WHITE HANGING HEART T-LIGHT HOLDER",
        "WHITE METAL LANTERN",
    ]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


async def _figures_are_those_of(rows: list[dict[str, str]], shop: Connection) -> None:
    """Add the file up in another way than the import does."""
    gross: defaultdict[str, Decimal] = defaultdict(Decimal)
    returned: defaultdict[str, Decimal] = defaultdict(Decimal)
    for line in rows:
        amount = int(line["Quantity"]) * Decimal(line["UnitPrice"])
        if line["InvoiceNo"].startswith("C"):
            returned[line["InvoiceDate"][:10]] -= amount
        elif amount > 0:
            gross[line["InvoiceDate"][:10]] += amount
    answer = await december(shop)
    assert {group.key: pounds(group.gross) for group in answer.groups} == gross
    assert {group.key: pounds(group.returned) for group in answer.groups} == returned
    (whole,) = answer.totals
    assert pounds(whole.net) == sum(gross.values()) - sum(returned.values())


async def _catalogue_is_that_of(rows: list[dict[str, str]], shop: Connection) -> None:
    """Check some products: the first name, and the price of the last line that is no stock correction."""
    names: dict[str, str] = {}
    prices: dict[str, Decimal] = {}
    for number, lines in groupby(rows, key=lambda line: line["InvoiceNo"]):
        for line in lines:
            if number.startswith("C") or int(line["Quantity"]) > 0:
                code = line["StockCode"].replace(" ", "_")
                names[code] = names.get(code) or line["Description"].strip()
                prices[code] = Decimal(line["UnitPrice"])
    for code in ("85123A", "22423", "POST", "DOT", "M", "BANK_CHARGES"):
        product = await shop.query(GetProductRequest(product_id=code))
        assert (product.name, pounds(product.price)) == (names[code], prices[code])
