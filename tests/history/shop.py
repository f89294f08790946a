"""The shop for the judge: effects of its commands, and rules that no true decision breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.message import Message

from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.processes_pb2 import ProcessStepped
from shop.v1 import (
    fulfilment_events_pb2,
    order_events_pb2,
    product_events_pb2,
    registration_events_pb2,
    user_events_pb2,
)
from shop.v1.order_commands_pb2 import ImportOrderRequest
from shop.v1.product_commands_pb2 import AdjustStockRequest, ChangePriceRequest, CreateProductRequest
from shop.v1.user_commands_pb2 import (
    AssignRoleRequest,
    DeactivateUserRequest,
    ReactivateUserRequest,
    RecordLoginRequest,
    RegisterUserRequest,
    UpdateUserProfileRequest,
)

_EVENTS: dict[str, type[Message]] = {
    each.full_name: getattr(module, each.name)
    for module in (
        user_events_pb2,
        product_events_pb2,
        order_events_pb2,
        registration_events_pb2,
        fulfilment_events_pb2,
    )
    for each in module.DESCRIPTOR.message_types_by_name.values()
} | {ProcessStepped.DESCRIPTOR.full_name: ProcessStepped}

_Says = Callable[[Any, Any], bool]
_RECORDS: dict[type[Message], tuple[str, bool, _Says]] = {
    # The event of a command, whether it may record none, and what the event must say.
    RegisterUserRequest: ("UserRegistered", False, lambda c, e: (c.user_id, c.email) == (e.user_id, e.email)),
    UpdateUserProfileRequest: ("UserProfileUpdated", True, lambda c, e: (c.user_id, c.bio) == (e.user_id, e.bio)),
    AssignRoleRequest: ("RoleAssigned", True, lambda c, e: (c.user_id, c.role) == (e.user_id, e.role)),
    DeactivateUserRequest: ("UserDeactivated", True, lambda c, e: (c.user_id, c.reason) == (e.user_id, e.reason)),
    ReactivateUserRequest: ("UserReactivated", True, lambda c, e: bool(c.user_id == e.user_id)),
    RecordLoginRequest: ("LoginRecorded", False, lambda c, e: bool(c.user_id == e.user_id)),
    CreateProductRequest: ("ProductCreated", False, lambda c, e: (c.product_id, c.stock) == (e.product_id, e.stock)),
    ChangePriceRequest: ("PriceChanged", True, lambda c, e: (c.product_id, c.price) == (e.product_id, e.price)),
    AdjustStockRequest: ("StockAdjusted", False, lambda c, e: (c.product_id, c.delta) == (e.product_id, e.delta)),
    ImportOrderRequest: ("OrderImported", False, lambda c, e: bool(c.order_id == e.order_id)),
}


def payload(event: RecordedEvent) -> Any:
    """Return a recorded event's own message."""
    return _EVENTS[event.event.type_url.rpartition("/")[2]].FromString(event.event.value)


class ShopEffects:
    """Effects of the shop's commands."""

    def wrong(self, command: Message, events: Sequence[RecordedEvent]) -> str:
        """Return the reason why an accepted command cannot have recorded these events; empty if it can."""
        expected, optional, says = _RECORDS[type(command)]
        names = [event.event.type_url.rpartition(".")[2] for event in events]
        if names != [expected] and not (optional and not names):
            return f"it recorded {names or 'nothing'}"
        if events and not says(command, payload(events[0])):
            return f"it recorded what it does not say: {payload(events[0])}"
        return ""

    def broken_rules(self, log: Sequence[RecordedEvent]) -> Iterable[str]:
        """Yield broken rules: each event has the right previous stock and email, and an email has one user."""
        stock: dict[str, int] = {}
        reserved: dict[tuple[str, str], int] = {}
        emails: dict[str, str] = {}
        for recorded in log:
            event = payload(recorded)
            match type(event).__name__:
                case "ProductCreated":
                    stock[event.product_id] = event.stock
                case "StockAdjusted":
                    before = stock[event.product_id]
                    if event.previous_stock != before or event.stock != before + event.delta or event.stock < 0:
                        yield (
                            f"at {recorded.position} the stock of {event.product_id} is {before}, and goes from "
                            f"{event.previous_stock} by {event.delta} to {event.stock}"
                        )
                    stock[event.product_id] = event.stock
                case "StockReserved" | "StockReleased":
                    delta = event.quantity if type(event).__name__ == "StockReleased" else -event.quantity
                    before = stock[event.product_id]
                    if event.previous_stock != before or event.stock != before + delta or event.stock < 0:
                        yield (
                            f"at {recorded.position} the stock of {event.product_id} is {before}, and goes from "
                            f"{event.previous_stock} by {delta} to {event.stock} for order {event.order_id}"
                        )
                    stock[event.product_id] = event.stock
                    held = (event.product_id, event.order_id)
                    if reserved.get(held, 0) != (event.quantity if delta > 0 else 0):
                        yield f"at {recorded.position} {held} has {reserved.get(held, 0)} pieces, and gets {-delta}"
                    reserved[held] = 0 if delta > 0 else event.quantity
                case "StockShipped":
                    held = (event.product_id, event.order_id)
                    if reserved.get(held, 0) != event.quantity:
                        yield f"at {recorded.position} {held} has not the {event.quantity} pieces that leave"
                    reserved[held] = 0
                case "UserRemoved":
                    emails = {email: user_id for email, user_id in emails.items() if user_id != event.user_id}
                case "UserRegistered":
                    email = event.email.casefold()
                    if email in emails:
                        yield f"at {recorded.position} {event.user_id} takes {email}, which {emails[email]} has"
                    emails[email] = event.user_id
                case "UserProfileUpdated" if event.email:
                    yield from self._changed_email(recorded.position, event, emails)

    @staticmethod
    def _changed_email(position: int, event: Any, emails: dict[str, str]) -> Iterable[str]:
        old, new = event.previous_email.casefold(), event.email.casefold()
        if emails.get(old) != event.user_id:
            yield f"at {position} {event.user_id} gives up {old}, which {emails.get(old)} has"
        emails.pop(old, None)
        if new in emails:
            yield f"at {position} {event.user_id} takes {new}, which {emails[new]} has"
        emails[new] = event.user_id
