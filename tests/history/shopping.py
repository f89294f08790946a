"""Behaviour of clients in a run: writes of all kinds, retried under their request ids, and reads."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from diptych.client import CallRefused, Connection
from diptych.v1.commands_pb2 import CommandContext
from diptych.v1.read_model_pb2 import WaitOutcome
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest
from shop.v1.order_queries_pb2 import GetOrderRequest
from shop.v1.product_commands_pb2 import AdjustStockRequest, ChangePriceRequest, CreateProductRequest
from shop.v1.product_queries_pb2 import GetProductRequest
from shop.v1.user_commands_pb2 import (
    AssignRoleRequest,
    DeactivateUserRequest,
    ReactivateUserRequest,
    RecordLoginRequest,
    RegisterUserRequest,
    UpdateUserProfileRequest,
)
from shop.v1.user_queries_pb2 import (
    GetRoleStatisticsRequest,
    GetUserRequest,
    GetUserStatisticsRequest,
    ListUsersRequest,
)
from shop.v1.users_pb2 import UserRole
from tests.history.clients import RecordingClient
from tests.history.records import Write, WriteStatus

PRODUCTS = ("tea", "mug")


class Board:
    """Ids that clients share, and the latest token."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.orders: list[str] = []
        self.token = ""
        self.versions: dict[str, int] = {}
        self.over = False
        """True if all clients stop, even before their time."""

    def post(self, write: Write) -> None:
        """Add a write."""
        if write.status is WriteStatus.ACKNOWLEDGED:
            self.token = max(self.token, write.token)
            self.versions[write.stream] = max(write.version, self.versions.get(write.stream, 0))


class Shopper:
    """Behaviour of one client."""

    def __init__(self, client: RecordingClient, board: Board, rng: random.Random) -> None:
        self.client = client
        self.board = board
        self.rng = rng
        self.open: list[tuple[Message, str, str, int | None]] = []
        """Commands with an unknown outcome."""
        self._done: list[tuple[Message, str, str, int | None]] = []
        self._number = 0
        self._until = 0.0
        self._deeds: list[tuple[int, Callable[[], Awaitable[object]]]] = [
            (3, self._register),
            (5, self._log_in),
            (3, self._update),
            (2, self._role),
            (2, self._standing),
            (6, self._adjust),
            (1, self._reprice),
            (1, self._order),
            (2, self._repeat),
            (10, self._read_user),
            (6, self._read_product),
            (2, self._read_order),
            (2, self._read_statistics),
            (2, self._read_roles),
            (2, self._list_users),
            (3, self._wait_for_token),
            (2, self._wait_for_version),
        ]

    async def shop(self, seconds: float) -> None:
        """Write and read for a time."""
        self._until = time.monotonic() + seconds
        weights, deeds = zip(*self._deeds, strict=True)
        while time.monotonic() < self._until and not self.board.over:
            await self.rng.choices(deeds, weights)[0]()

    async def settle(self, seconds: float) -> None:
        """Repeat commands with an unknown outcome until it is known."""
        until = time.monotonic() + seconds
        while self.open and time.monotonic() < until:
            if await self._send_again() is WriteStatus.UNKNOWN:
                await asyncio.sleep(0.1)

    async def _send_again(self) -> WriteStatus:
        command, stream, request_id, expected = self.open[-1]
        write = await self.client.write(command, stream, request_id, expected_version=expected)
        self.board.post(write)
        if write.status is not WriteStatus.UNKNOWN:
            self.open.pop()
        return write.status

    async def _write(self, command: Message, stream: str, *, expected: int | None = None) -> Write:
        """Send a command, and repeat it under its request id while its outcome is unknown, or abandon it."""
        self._number += 1
        request_id = f"{self.client.name}-{self._number}"
        sending = (command, stream, request_id, expected)
        while True:
            write = await self.client.write(command, stream, request_id, expected_version=expected)
            self.board.post(write)
            if write.status is WriteStatus.ACKNOWLEDGED:
                self._done.append(sending)
                return write
            lost = write.status is WriteStatus.UNKNOWN
            if not lost and write.reason not in ("LOG_UNAVAILABLE", "OVERLOADED"):
                return write
            if self.rng.random() < 0.3 or time.monotonic() >= self._until:
                if lost:
                    self.open.append(sending)
                return write
            await asyncio.sleep(self.rng.uniform(0.0, 0.15))

    async def _repeat(self) -> None:
        if self.open:
            await self._send_again()
        elif self._done:
            command, stream, request_id, expected = self.rng.choice(self._done)
            self.board.post(await self.client.write(command, stream, request_id, expected_version=expected))

    async def _register(self) -> None:
        user_id = f"u-{self.client.name}-{self._number}"
        # Some want an email that another may have.
        name = user_id if self.rng.random() < 0.7 else f"shared-{self.rng.randrange(20)}"
        command = RegisterUserRequest(user_id=user_id, email=f"{name}@example.com")
        if (await self._write(command, f"user/{user_id}")).status is WriteStatus.ACKNOWLEDGED:
            self.board.users.append(user_id)

    def _user(self) -> str:
        # The latest are hot, so that the same rows are written and read by many.
        return self.rng.choice(self.board.users[-6:])

    async def _log_in(self) -> None:
        user_id = self._user()
        stream = f"user/{user_id}"
        expected = self.board.versions.get(stream) if self.rng.random() < 0.3 else None
        write = await self._write(RecordLoginRequest(user_id=user_id), stream, expected=expected)
        if write.status is WriteStatus.ACKNOWLEDGED:
            await self.get_user(user_id, token=write.token)

    async def _update(self) -> None:
        user_id = self._user()
        command = UpdateUserProfileRequest(user_id=user_id)
        if self.rng.random() < 0.5:
            command.bio = f"{self.client.name} {self._number}"
        else:
            command.email = f"shared-{self.rng.randrange(20)}@Example.com"
        await self._write(command, f"user/{user_id}")

    async def _role(self) -> None:
        user_id = self._user()
        role = UserRole.Name(self.rng.choice((1, 2, 3)))
        await self._write(AssignRoleRequest(user_id=user_id, role=role), f"user/{user_id}")

    async def _standing(self) -> None:
        user_id = self._user()
        command: Message = ReactivateUserRequest(user_id=user_id)
        if self.rng.random() < 0.5:
            command = DeactivateUserRequest(user_id=user_id, reason=f"{self.client.name} {self._number}")
        await self._write(command, f"user/{user_id}")

    async def _adjust(self) -> None:
        product_id = self.rng.choice(PRODUCTS)
        command = AdjustStockRequest(product_id=product_id, delta=self.rng.choice((-3, -2, -1, 1, 2, 3)))
        write = await self._write(command, f"product/{product_id}")
        if write.status is WriteStatus.ACKNOWLEDGED:
            await self._get_product(product_id, token=write.token)

    async def _reprice(self) -> None:
        product_id = self.rng.choice(PRODUCTS)
        price = Money(currency_code="GBP", units=self.rng.randrange(100))
        await self._write(ChangePriceRequest(product_id=product_id, price=price), f"product/{product_id}")

    async def _order(self) -> None:
        order_id = f"o-{self.client.name}-{self._number}"
        command = ImportOrderRequest(
            order_id=order_id,
            customer_id=self._user(),
            order_time=Timestamp(seconds=1_700_000_000 + self.rng.randrange(1_000_000)),
            country="France",
            items=[
                ImportedItem(
                    product_id=product_id,
                    quantity=self.rng.randint(1, 5),
                    unit_price=Money(currency_code="GBP", nanos=990_000_000),
                )
                for product_id in PRODUCTS
            ],
        )
        if (await self._write(command, f"order/{order_id}")).status is WriteStatus.ACKNOWLEDGED:
            self.board.orders.append(order_id)

    def _read_options(self) -> dict[str, Any]:
        """Return server, token and time limit of a read."""
        return {
            "server": self.rng.choice(self.client.servers),
            "token": self.rng.choices((self.client.token, self.board.token, ""), (6, 2, 2))[0],
            "in_field": self.rng.random() < 0.5,
            "timeout": self.rng.choice((0.15, 1.0, 3.0)),
        }

    async def get_user(self, user_id: str, **more: Any) -> None:
        """Read a user."""
        options = {**self._read_options(), **more}
        query = GetUserRequest(user_id=user_id)
        await self.client.read(query, "users", lambda row: {user_id: _bytes(row)}, missing=user_id, **options)

    async def _get_product(self, product_id: str, **more: Any) -> None:
        options = {**self._read_options(), **more}
        query = GetProductRequest(product_id=product_id)
        await self.client.read(query, "products", lambda row: {product_id: _bytes(row)}, missing=product_id, **options)

    async def _read_user(self) -> None:
        await self.get_user(self._user())

    async def _read_product(self) -> None:
        await self._get_product(self.rng.choice(PRODUCTS))

    async def _read_order(self) -> None:
        if self.board.orders:
            order_id = self.rng.choice(self.board.orders[-6:])
            query = GetOrderRequest(order_id=order_id)
            await self.client.read(
                query, "orders", lambda row: {order_id: _bytes(row)}, missing=order_id, **self._read_options()
            )

    async def _read_statistics(self) -> None:
        user_id = self._user()
        query = GetUserStatisticsRequest(user_id=user_id)
        await self.client.read(
            query, "user_statistics", lambda row: {user_id: _bytes(row)}, missing=user_id, **self._read_options()
        )

    async def _read_roles(self) -> None:
        await self.client.read(
            GetRoleStatisticsRequest(),
            "role_statistics",
            lambda answer: {UserRole.Name(row.role): _bytes(row) for row in answer.roles},
            whole=True,
            **self._read_options(),
        )

    async def _list_users(self) -> None:
        await self.client.read(
            ListUsersRequest(page_size=1000),
            "user_summaries",
            lambda answer: {row.user_id: _bytes(row) for row in answer.users},
            whole=True,
            **self._read_options(),
        )

    async def _wait_for_token(self) -> None:
        token = self.rng.choice((self.client.token, self.board.token))
        if token:
            view = self.rng.choice(("", "users", "products", "orders"))
            server = self.rng.choice(self.client.servers)
            timeout = self.rng.choice((0.02, 0.3, 2.0))
            wait = await self.client.wait(server, view, token=token, timeout=timeout)
            if wait.outcome == WaitOutcome.WAIT_OUTCOME_REACHED:
                await self.get_user(self._user(), server=server, token="")
                await self._get_product(self.rng.choice(PRODUCTS), server=server, token="")

    async def _wait_for_version(self) -> None:
        user_id = self._user()
        stream = f"user/{user_id}"
        # The next one comes only if somebody writes it.
        version = self.board.versions.get(stream, 1) + self.rng.choice((0, 1))
        server = self.rng.choice(self.client.servers)
        wait = await self.client.wait(server, "users", stream=stream, version=version, timeout=0.5)
        if wait.outcome == WaitOutcome.WAIT_OUTCOME_REACHED:
            await self.get_user(user_id, server=server, token="")


class Importer:
    """Client that sends many commands through a stream, which repeats lost ones by itself."""

    def __init__(self, client: RecordingClient, board: Board, rng: random.Random, address: str) -> None:
        self.client = client
        self.board = board
        self.rng = rng
        self._address = address
        self._number = 0

    async def send(self, seconds: float) -> None:
        """Send batches for a time."""
        until = time.monotonic() + seconds
        async with Connection(self._address) as connection, connection.command_stream(window=4) as stream:
            answers = []
            while time.monotonic() < until and not self.board.over:
                commands: list[tuple[Message, str, str]] = []
                for _ in range(self.rng.randint(1, 12)):
                    self._number += 1
                    commands.append(self._command(f"{self.client.name}-{self._number}"))
                began = time.monotonic()
                answer = await stream.submit([command for command, _, _ in commands])
                answers.append(asyncio.create_task(self._note(commands, began, answer)))
                await asyncio.sleep(self.rng.uniform(0.0, 0.05))
            await asyncio.gather(*answers)

    def _command(self, request_id: str) -> tuple[Message, str, str]:
        context = CommandContext(request_id=request_id)
        if self.rng.random() < 0.5:
            product_id = self.rng.choice(PRODUCTS)
            command: Message = AdjustStockRequest(
                context=context, product_id=product_id, delta=self.rng.choice((-2, -1, 1, 2))
            )
            return command, f"product/{product_id}", request_id
        user_id = self.rng.choice(self.board.users)
        return RecordLoginRequest(context=context, user_id=user_id), f"user/{user_id}", request_id

    async def _note(self, commands: list[tuple[Message, str, str]], began: float, answer: asyncio.Future[Any]) -> None:
        try:
            outcomes: list[Any] = await answer
        except CallRefused as refused:
            outcomes = [refused] * len(commands)
        for (command, stream, request_id), outcome in zip(commands, outcomes, strict=True):
            self.board.post(self.client.wrote(command, stream, request_id, began, outcome, repeated=True))


async def open_shop(client: RecordingClient, board: Board) -> None:
    """Create the users and products that all clients use."""
    for product_id in PRODUCTS:
        command = CreateProductRequest(
            product_id=product_id, name=product_id, price=Money(currency_code="GBP", units=1), stock=20
        )
        board.post(await client.write(command, f"product/{product_id}", f"open-{product_id}", timeout=10))
    for number in range(4):
        user_id = f"first-{number}"
        command_ = RegisterUserRequest(user_id=user_id, email=f"{user_id}@example.com")
        board.post(await client.write(command_, f"user/{user_id}", f"open-{user_id}", timeout=10))
        board.users.append(user_id)


def _bytes(row: Message) -> bytes:
    return row.SerializeToString(deterministic=True)
