"""Promise 3: rows do not depend on batch sizes. One log, three read stores, every table compared byte by byte."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from diptych.client import CallRefused, Connection, open_channel
from diptych.domain.loading import load
from diptych.v1.projections_pb2 import ListProjectionsRequest, ListProjectionsResponse
from shop import sample
from shop.payments.v1.payments_pb2 import FAULT_DECLINE
from shop.v1.order_commands_pb2 import (
    CancelOrderRequest,
    ImportedItem,
    ImportOrderRequest,
    ImportReturnRequest,
    PlacedItem,
    PlaceOrderRequest,
    UpdateOrderStatusRequest,
)
from shop.v1.orders_pb2 import ORDER_STATUS_CANCELLED, ORDER_STATUS_DELIVERED, ORDER_STATUS_SHIPPED
from shop.v1.product_commands_pb2 import (
    AdjustStockRequest,
    ChangePriceRequest,
    CreateProductRequest,
    UpdateProductRequest,
)
from shop.v1.registration_commands_pb2 import StartRegistrationRequest
from shop.v1.user_commands_pb2 import (
    AssignRoleRequest,
    DeactivateUserRequest,
    ReactivateUserRequest,
    RecordLoginRequest,
    RegisterUserRequest,
    UpdateUserProfileRequest,
)
from shop.v1.users_pb2 import UserRole
from tests.history.clients import whole_log
from tests.history.judge import Case, judge
from tests.history.records import History
from tests.history.shop import ShopEffects
from tests.history.stage import stored
from tests.support.polling import eventually
from tests.support.programs import Server
from tests.support.shop_processes import PaymentProvider, at_rest

BATCHES = (1, 7, 1000)


def commands() -> Iterator[Message]:
    """Commands that record every event of the shop, with hot rows, rows changed in one batch, and changes undone."""
    yield from sample.COMMANDS
    rng = random.Random(1)
    people = [f"person-{number}" for number in range(25)]
    goods = [f"good-{number}" for number in range(10)]
    for number, user_id in enumerate(people):
        yield RegisterUserRequest(user_id=user_id, email=f"{user_id}@example.com", username=f"name {number}")
        yield RecordLoginRequest(user_id=user_id)
    for product_id in goods:
        yield CreateProductRequest(product_id=product_id, name=product_id, price=_money(rng), stock=1000)
    for number in range(500):
        user_id, product_id = rng.choice(people), rng.choice(goods)
        yield rng.choice(
            [
                RecordLoginRequest(user_id=user_id),
                UpdateUserProfileRequest(user_id=user_id, bio=f"Ünïcode {number}", preferences={"b": "1", "a": "2"}),
                UpdateUserProfileRequest(user_id=user_id, email=f"mail-{number}@example.com"),
                AssignRoleRequest(user_id=user_id, role=UserRole.Name(rng.randint(1, 4))),
                DeactivateUserRequest(user_id=user_id, reason=f"reason {number}"),
                ReactivateUserRequest(user_id=user_id),
                AdjustStockRequest(product_id=product_id, delta=rng.choice((-2, -1, 1, 2)), reason="count"),
                ChangePriceRequest(product_id=product_id, price=_money(rng)),
                UpdateProductRequest(product_id=product_id, name=f"{product_id} {number % 3}", category="things"),
                _order(rng, f"import-{number}", user_id, goods),
                _return(rng, f"return-{number}", user_id, goods),
            ]
        )


def first_orders() -> list[Message]:
    """Orders and registrations with all ends that need no fault. They follow the sample."""
    return [
        *(_placed(f"placed-{number}", {"good-1": 1, "good-2": 2}) for number in range(3)),
        _placed("too-many", {"good-3": 1, "good-4": 1_000_000}),
        StartRegistrationRequest(registration_id="all-goes-well", email="well@example.com", username="well"),
        StartRegistrationRequest(registration_id="name-taken", email="taken@example.com", username="NAME 3"),
    ]


def later_orders() -> list[Message]:
    """Changes of confirmed orders, and an order whose payment is declined."""
    return [
        UpdateOrderStatusRequest(order_id="placed-0", status=ORDER_STATUS_SHIPPED),
        CancelOrderRequest(order_id="placed-1", reason="changed my mind"),
        _placed("declined", {"good-1": 1, "good-5": 1}),
    ]


def _placed(order_id: str, items: dict[str, int]) -> PlaceOrderRequest:
    placed = [PlacedItem(product_id=product_id, quantity=quantity) for product_id, quantity in items.items()]
    return PlaceOrderRequest(order_id=order_id, customer_id="ada", items=placed)


def _money(rng: random.Random) -> Money:
    return Money(currency_code="GBP", units=rng.randrange(100), nanos=rng.choice((0, 5_000_000, 990_000_000)))


def _items(rng: random.Random, goods: list[str]) -> list[ImportedItem]:
    return [
        ImportedItem(product_id=product_id, quantity=rng.randint(1, 9), unit_price=_money(rng))
        for product_id in rng.sample(goods, rng.randint(1, 4))
    ]


def _order(rng: random.Random, order_id: str, user_id: str, goods: list[str]) -> ImportOrderRequest:
    return ImportOrderRequest(
        order_id=order_id,
        customer_id=rng.choice((user_id, "")),
        order_time=Timestamp(seconds=1_700_000_000 + rng.randrange(3) * 86_400),
        country=rng.choice(("France", "Österreich", "")),
        items=_items(rng, goods),
        status=rng.choice((ORDER_STATUS_DELIVERED, ORDER_STATUS_CANCELLED)),
    )


def _return(rng: random.Random, return_id: str, user_id: str, goods: list[str]) -> ImportReturnRequest:
    return ImportReturnRequest(
        return_id=return_id,
        customer_id=user_id,
        return_time=Timestamp(seconds=1_700_000_000 + rng.randrange(3) * 86_400),
        items=_items(rng, goods),
    )


def tables(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return every table of a view in a read store, with its rows in order."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        found = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%\\_g1' ESCAPE '\\'"
        )
        names = [name for (name,) in found]
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in names}
    finally:
        connection.close()


async def _applied(address: str, head: int) -> bool:
    """Return True if every projection of a projector has applied all events."""
    async with open_channel(address) as channel:
        call: Any = channel.unary_unary(
            "/diptych.v1.ProjectionService/ListProjections",
            request_serializer=ListProjectionsRequest.SerializeToString,
            response_deserializer=ListProjectionsResponse.FromString,
        )
        answer = await call(ListProjectionsRequest(), timeout=10)
        return all(each.progress.applied_position == head for each in answer.projections)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[PaymentProvider]:
    found = PaymentProvider(tmp_path)
    try:
        found.start()
        yield found
    finally:
        found.close()


@pytest.fixture
def command_server(tmp_path: Path, provider: PaymentProvider) -> Iterator[Server]:
    log = tmp_path / "log.db"
    env = {"SHOP_PAYMENTS": provider.address}
    server = Server("command-server", "--domain=shop", f"--log=sqlite:///{log}", log=tmp_path / "command.log", env=env)
    try:
        server.start()
        yield server
    finally:
        server.close()


async def test_rows_are_byte_equal_for_all_batch_sizes(
    tmp_path: Path, command_server: Server, provider: PaymentProvider
) -> None:
    await _load(command_server.address, list(commands()))
    await _load(command_server.address, first_orders())
    await provider.set_fault(FAULT_DECLINE)
    await _load(command_server.address, later_orders())
    log = await whole_log(command_server.address)
    loaded = load("shop")
    recorded = {event.event.type_url.rpartition("/")[2] for event in log}
    # A new event of the shop belongs into `commands`, or into the orders.
    assert recorded == set(loaded.event_types), set(loaded.event_types) - recorded
    found = {}
    for batch in BATCHES:
        path = tmp_path / f"read-{batch}.db"
        await _fill(path, batch, command_server.address, len(log))
        found[batch] = tables(path)
        assert found[batch].keys() == {f"{view}_g1" for view in loaded.domain.views}
    for batch in BATCHES[1:]:
        for name, rows in found[batch].items():
            assert rows == found[BATCHES[0]][name], f"{name} differs between batches of {BATCHES[0]} and {batch}"
    # And what all three say is the fold of the log.
    history = History(log=log, stored=stored(tmp_path / f"read-{BATCHES[0]}.db", loaded.domain))
    findings = judge(Case(history, loaded.domain, ShopEffects()))
    assert [each for each in findings if each.check in ("views_equal_the_fold", "gap_free_order")] == []
    assert {each.position for each in history.stored} == {len(log)}


async def _load(address: str, batch: list[Message]) -> None:
    """Send commands, and wait until the processes that they start have done all they can."""
    async with Connection(address) as connection, connection.command_stream() as stream:
        outcomes = await (await stream.submit(batch))
    assert not [each for each in outcomes if isinstance(each, CallRefused) and each.reason != "USER_DEACTIVATED"]
    await at_rest(address)


async def _fill(path: Path, batch: int, commands_address: str, head: int) -> None:
    arguments = [f"--commands={commands_address}", f"--read-store=sqlite:///{path}", f"--batch-events-max={batch}"]
    projector = Server("projector", "--domain=shop", *arguments, log=path.with_suffix(".log"))
    try:
        projector.start()

        async def applied() -> Any:
            return await _applied(projector.address, head)

        await eventually(applied, seconds=30)
        assert projector.stop() == 0
    finally:
        projector.close()
