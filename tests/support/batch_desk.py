"""A desk that decides batches on a real store, and short builders of the shop's commands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from command_server.batch import Batch
from command_server.catalogue import Catalogue
from command_server.dispatch import Caller, Dispatcher
from command_server.state_cache import StateCache
from command_server.store.sqlite_store import SqliteEventStore
from command_server.submission import Accepted, Submission
from diptych import Aggregate, Domain
from diptych.contract.frames import recorded
from diptych.domain import loading as domains
from diptych.domain.loading import LoadedDomain
from diptych.domain.refusal import Refusal
from diptych.v1.commands_pb2 import CommandContext
from diptych.v1.events_pb2 import RecordedEvent
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest
from shop.v1.product_commands_pb2 import CreateProductRequest
from shop.v1.user_commands_pb2 import (
    DeactivateUserRequest,
    RecordLoginRequest,
    RegisterUserRequest,
    UpdateUserProfileRequest,
)

SHOP = domains.load("shop")
NOW = datetime(2031, 1, 1, tzinfo=UTC)
PRICE = Money(currency_code="GBP", units=2)


class Desk:
    """Decides batches on a store of its own, in the domain of the shop."""

    def __init__(
        self, folder: Path, *, domain: LoadedDomain = SHOP, snapshot_events: int = 500, exclusive: bool = True
    ) -> None:
        self.store = SqliteEventStore(folder / "log.db", exclusive=exclusive)
        self.domain = domain
        self.catalogue = Catalogue(domain, snapshot_events)
        self.cache = StateCache(1000)
        self._dispatcher = Dispatcher(domain)
        self._batches = 0

    async def __aenter__(self) -> Desk:
        await self.store.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()

    def submission(self, command: Message) -> Submission:
        sent = type(command).FromString(command.SerializeToString())
        method = self.domain.commands[command.DESCRIPTOR.full_name]
        return self._dispatcher.submission(method, sent, Caller())

    async def batch(self, *commands: Message) -> list[Accepted | Refusal]:
        """Decide commands together, and return their outcomes."""
        submissions = [self.submission(command) for command in commands]
        await self.decide(submissions)
        return [one.accepted or one.refusal for one in submissions]  # type: ignore[misc]

    async def decide(self, submissions: Sequence[Submission]) -> None:
        self._batches += 1
        batch = Batch(submissions, self.catalogue, self.cache, NOW + timedelta(seconds=self._batches))
        committed = await self.store.commit(batch.reads(), batch.decide)
        batch.finish(committed)
        for one in submissions:
            assert (one.accepted is None) != (one.refusal is None), "a command has one outcome"
            position = one.accepted.position if one.accepted is not None else one.position
            assert 0 <= position <= (await self.store.head()).position

    async def events(self) -> list[RecordedEvent]:
        page = await self.store.read_log(0, events_max=100_000, bytes_max=1 << 30)
        return [recorded(one) for one in page.frames]

    async def kinds(self) -> list[str]:
        return [one.event.type_url.rpartition(".")[2] for one in await self.events()]

    def forget(self) -> None:
        """Lose the state cache, as a restart does."""
        self.cache = StateCache(1000)


def context_of(request_id: str = "", expected: int | None = None) -> CommandContext:
    return CommandContext(request_id=request_id, expected_version=expected)


def register(
    user_id: str, email: str = "", request_id: str = "", expected: int | None = None, **fields: Any
) -> RegisterUserRequest:
    return RegisterUserRequest(
        context=context_of(request_id, expected),
        user_id=user_id,
        email=email or f"{user_id or 'x'}@example.com",
        **fields,
    )


def email(user_id: str, address: str, request_id: str = "", expected: int | None = None) -> UpdateUserProfileRequest:
    return UpdateUserProfileRequest(context=context_of(request_id, expected), user_id=user_id, email=address)


def deactivate(user_id: str, request_id: str = "", expected: int | None = None) -> DeactivateUserRequest:
    return DeactivateUserRequest(context=context_of(request_id, expected), user_id=user_id)


def login(user_id: str, request_id: str = "", expected: int | None = None) -> RecordLoginRequest:
    return RecordLoginRequest(context=context_of(request_id, expected), user_id=user_id)


def create(product_id: str) -> CreateProductRequest:
    return CreateProductRequest(product_id=product_id, name=product_id.title(), price=PRICE)


def order(order_id: str, product_id: str, customer_id: str = "", request_id: str = "") -> ImportOrderRequest:
    return ImportOrderRequest(
        context=context_of(request_id),
        order_id=order_id,
        customer_id=customer_id,
        order_time=Timestamp(seconds=1_700_000_000),
        items=[ImportedItem(product_id=product_id, quantity=1, unit_price=PRICE)],
    )


def accepted(outcome: Accepted | Refusal) -> Accepted:
    assert isinstance(outcome, Accepted), outcome
    return outcome


def with_aggregate(replaced: Aggregate[Any]) -> LoadedDomain:
    """Return the shop with another aggregate in the place of its own of that type."""
    loaded = domains.load("shop")
    aggregates = [replaced if one.type == replaced.type else one for one in SHOP.domain.aggregates.values()]
    loaded.domain = Domain("shop", aggregates=aggregates, projections=[])
    for name in replaced.deciders.keys() & loaded.commands.keys():
        binding = replaced.deciders[name]
        loaded.commands[name] = loaded.commands[name]._replace(binding=binding)
    loaded.codecs = dict(SHOP.codecs)
    return loaded
