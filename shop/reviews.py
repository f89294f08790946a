"""Reviews: what users think of products, one each. A later one replaces the former."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diptych import Aggregate, AggregateRef, Deciding
from shop.products import product
from shop.refusals import UnknownProduct, UnknownUser, UserDeactivated
from shop.users import user
from shop.v1.product_commands_pb2 import ReviewProductRequest
from shop.v1.product_events_pb2 import ProductReviewed
from shop.v1.users_pb2 import USER_STATUS_DEACTIVATED


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewState:
    """A review as it stands; a rating of 0 if there is none."""

    rating: int = 0
    text: str = ""


def id_of(review: ReviewProductRequest | ProductReviewed) -> str:
    """A review's id: that of its product, and that of its user."""
    return f"{review.product_id}/{review.user_id}"


review = Aggregate[ReviewState]("review", initial=ReviewState(), id=id_of)


def _reads(command: ReviewProductRequest) -> Iterator[AggregateRef]:
    yield product.ref(command.product_id)
    yield user.ref(command.user_id)


@review.decides(ReviewProductRequest, reads=_reads)
def review_product(state: ReviewState, command: ReviewProductRequest, at: Deciding) -> Sequence[ProductReviewed]:
    """Records what is new; the same again adds nothing."""
    if not at.version_of(product, command.product_id):
        raise UnknownProduct(product_id=command.product_id)
    reviewer = at.state(user, command.user_id)
    if not reviewer.exists:
        raise UnknownUser(user_id=command.user_id)
    if reviewer.status == USER_STATUS_DEACTIVATED:
        raise UserDeactivated(user_id=command.user_id)
    if (command.rating, command.text) == (state.rating, state.text):
        return []
    return [
        ProductReviewed(
            product_id=command.product_id,
            user_id=command.user_id,
            rating=command.rating,
            text=command.text,
            previous_rating=state.rating,
            previous_text=state.text,
        )
    ]


@review.evolves(ProductReviewed)
def reviewed(state: ReviewState, event: ProductReviewed) -> ReviewState:
    """The new review stands."""
    return ReviewState(rating=event.rating, text=event.text)
