"""Returns: returned goods, of a recorded order or of none. They change no order and no stock."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diptych import Aggregate, AggregateRef, Deciding
from shop.items import products_of, record_items
from shop.orders import OrderState, order
from shop.refusals import ReturnExists, UnknownOrder, UnknownUser
from shop.text import typed
from shop.users import user
from shop.v1.order_commands_pb2 import ImportReturnRequest
from shop.v1.order_events_pb2 import ReturnImported


@dataclass(frozen=True, slots=True)
class ReturnState:
    """State without fields: decisions need only the version."""


goods_return = Aggregate[ReturnState]("return", initial=ReturnState(), id="return_id")


def _reads(command: ImportReturnRequest) -> Iterator[AggregateRef]:
    if command.order_id:
        yield order.ref(command.order_id)
    if command.customer_id:
        yield user.ref(command.customer_id)
    yield from products_of(command.items)


@goods_return.decides(ImportReturnRequest, reads=_reads)
def import_return(state: ReturnState, command: ImportReturnRequest, at: Deciding) -> Sequence[ReturnImported]:
    """Record returned goods. A missing customer and country are those of the order."""
    if at.version:
        raise ReturnExists(return_id=at.id)
    of = OrderState()
    if command.order_id:
        if not at.version_of(order, command.order_id):
            raise UnknownOrder(order_id=command.order_id)
        of = at.state(order, command.order_id)
    if command.customer_id and not at.state(user, command.customer_id).exists:
        raise UnknownUser(user_id=command.customer_id)
    items, total = record_items(command.items, at)
    return [
        ReturnImported(
            return_id=at.id,
            order_id=command.order_id,
            customer_id=command.customer_id or of.customer_id,
            return_time=command.return_time,
            country=typed(command.country) or of.country,
            items=items,
            total=total,
            reason=command.reason,
        )
    ]


@goods_return.evolves(ReturnImported)
def imported(state: ReturnState, event: ReturnImported) -> ReturnState:
    """Return the state unchanged."""
    return state
