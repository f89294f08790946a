"""Commands for invoices: first for customers and products that are new in the file, then for the invoice.

A command, and so its request id, depends only on the rows up to its invoice. So a file can be imported again after a
kill, and a longer file with the same first rows after a shorter one: the ids identify commands that were accepted
before.
"""

from __future__ import annotations

import hashlib
import re
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
_SAFE_IN_ADDRESSES = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class Command(NamedTuple):
    """A command that is ready to send."""

    kind: str
    """Name of its rpc."""
    of: str
    """Id of its subject, for people."""
    envelope: CommandEnvelope

    @property
    def size(self) -> int:
        """Approximate length in bytes."""
        return len(self.envelope.command.value) + 200


class _Named(NamedTuple):
    """Product as an invoice names it."""

    name: str
    price_nanos: int


class Commands:
    """Makes commands, and records the customers and products that the file has named."""

    def __init__(self) -> None:
        self._customers: set[str] = set()
        self._products: dict[str, _Named] = {}

    def of(self, invoice: Invoice) -> Iterator[Command]:
        """Yield the commands of an invoice, in the order of execution. Invoices come in the order of the file."""
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
    """Return, for each product, the first name that is not empty and the last price."""
    named: dict[str, _Named] = {}
    for line in lines:
        before = named.get(line.product_id)
        named[line.product_id] = _Named(before.name or line.name if before else line.name, line.price_nanos)
    return named


def _register(customer_id: str) -> Command:
    register = RegisterUserRequest(user_id=customer_id, email=email_of(customer_id), registration_source="retail")
    # The id leaves out the invoice: the registration is the same whichever invoice of a customer comes first.
    return _command("RegisterUser", customer_id, register, f"retail/customer/{customer_id}")


def email_of(customer_id: str) -> str:
    """Return an address for a customer: of one customer only, though the shop compares addresses without case."""
    if _SAFE_IN_ADDRESSES.fullmatch(customer_id):
        return f"{customer_id}@retail.invalid"
    # No id has a plus sign, so that these addresses differ from all others.
    digest = hashlib.sha256(customer_id.encode()).hexdigest()[:16]
    return f"{customer_id.replace('.', '-')}+{digest}@retail.invalid"


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
    """Return an amount, which the caller must not change."""
    units, nanos = divmod(price_nanos, _NANOS)
    return Money(currency_code=CURRENCY, units=units, nanos=nanos)


def _command(kind: str, of: str, command: Message, request_id: str) -> Command:
    if len(request_id) > _REQUEST_ID_MAX:
        request_id = f"retail/{hashlib.sha256(request_id.encode()).hexdigest()}"
    packed = Any(type_url=f"type.googleapis.com/shop.v1.{kind}Request", value=command.SerializeToString())
    return Command(kind, of, CommandEnvelope(context=CommandContext(request_id=request_id), command=packed))
