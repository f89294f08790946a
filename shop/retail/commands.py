"""From invoices to commands: first whom and what an invoice names, as far as that is new, and then the invoice.

A command depends on the rows up to its invoice alone, and so does its request id. So a file can be imported again after
a kill, and a longer one that begins with the same rows after a shorter one: what was taken before is known by its id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from diptych.v1.commands_pb2 import CommandContext, CommandEnvelope
from shop.retail.reader import Invoice, Line
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest, ImportReturnRequest
from shop.v1.orders_pb2 import ORDER_STATUS_DELIVERED
from shop.v1.product_commands_pb2 import ChangePriceRequest, CreateProductRequest, UpdateProductRequest
from shop.v1.user_commands_pb2 import RegisterUserRequest

CURRENCY = "GBP"
_REQUEST_ID_MAX = 128
_NANOS = 1_000_000_000


class Command(NamedTuple):
    """A command, ready to be sent."""

    kind: str
    """Its rpc."""
    of: str
    """The id of what it is about, for people."""
    envelope: CommandEnvelope

    @property
    def size(self) -> int:
        """About its length in bytes."""
        return len(self.envelope.command.value) + 200


class _Named(NamedTuple):
    """What an invoice says of a product."""

    name: str
    price_nanos: int


class Commands:
    """Makes commands and remembers which customers and products the file has named."""

    def __init__(self) -> None:
        self._customers: set[str] = set()
        self._products: dict[str, _Named] = {}

    def of(self, invoice: Invoice) -> Iterator[Command]:
        """The commands of an invoice, in the order to execute them. Invoices come in the file's order."""
        if invoice.customer_id and invoice.customer_id not in self._customers:
            self._customers.add(invoice.customer_id)
            yield _register(invoice.customer_id)
        for product_id, now in _named(invoice.lines).items():
            yield from self._product(invoice, product_id, now)
        yield _import(invoice)

    def _product(self, invoice: Invoice, product_id: str, now: _Named) -> Iterator[Command]:
        before = self._products.get(product_id)
        self._products[product_id] = _Named(before.name or now.name if before else now.name, now.price_nanos)
        price = _money(now.price_nanos)
        if before is None:
            create = CreateProductRequest(product_id=product_id, name=now.name, price=price)
            yield _command("CreateProduct", product_id, create, f"retail/{invoice.id}/create/{product_id}")
            return
        if now.name and not before.name:
            update = UpdateProductRequest(product_id=product_id, name=now.name)
            yield _command("UpdateProduct", product_id, update, f"retail/{invoice.id}/name/{product_id}")
        if now.price_nanos != before.price_nanos:
            change = ChangePriceRequest(product_id=product_id, price=price)
            yield _command("ChangePrice", product_id, change, f"retail/{invoice.id}/price/{product_id}")


def _named(lines: Sequence[Line]) -> dict[str, _Named]:
    """For each product the first name that is not empty, and the last price."""
    named: dict[str, _Named] = {}
    for line in lines:
        before = named.get(line.product_id)
        named[line.product_id] = _Named(before.name or line.name if before else line.name, line.price_nanos)
    return named


def _register(customer_id: str) -> Command:
    register = RegisterUserRequest(
        user_id=customer_id, email=f"{customer_id}@retail.invalid", registration_source="retail"
    )
    # Without the invoice: what is registered is the same whichever of a customer's invoices comes first.
    return _command("RegisterUser", customer_id, register, f"retail/customer/{customer_id}")


def _import(invoice: Invoice) -> Command:
    items = [
        ImportedItem(product_id=line.product_id, quantity=line.quantity, unit_price=_money(line.price_nanos))
        for line in invoice.lines
    ]
    time = Timestamp(seconds=invoice.seconds)
    if invoice.is_return:
        goods_return = ImportReturnRequest(
            return_id=invoice.id,
            customer_id=invoice.customer_id,
            return_time=time,
            country=invoice.country,
            items=items,
        )
        return _command("ImportReturn", invoice.id, goods_return, f"retail/{invoice.id}")
    order = ImportOrderRequest(
        order_id=invoice.id,
        customer_id=invoice.customer_id,
        order_time=time,
        country=invoice.country,
        items=items,
        status=ORDER_STATUS_DELIVERED,
    )
    return _command("ImportOrder", invoice.id, order, f"retail/{invoice.id}")


@lru_cache(maxsize=10_000)
def _money(price_nanos: int) -> Money:
    """An amount; it is not to be changed."""
    units, nanos = divmod(price_nanos, _NANOS)
    return Money(currency_code=CURRENCY, units=units, nanos=nanos)


def _command(kind: str, of: str, command: Message, request_id: str) -> Command:
    if len(request_id) > _REQUEST_ID_MAX:
        request_id = f"retail/{hashlib.sha256(request_id.encode()).hexdigest()}"
    packed = Any(type_url=f"type.googleapis.com/shop.v1.{kind}Request", value=command.SerializeToString())
    return Command(kind, of, CommandEnvelope(context=CommandContext(request_id=request_id), command=packed))
