"""Reviews of products: one for each user and product. A later one replaces it."""

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
    """State of a review, with rating 0 if there is none."""

    rating: int = 0
    text: str = ""


def id_of(review: ReviewProductRequest | ProductReviewed) -> str:
    """Return a review's id: the product's id, `/` and the user's id."""
    return f"{review.product_id}/{review.user_id}"


review = Aggregate[ReviewState]("review", initial=ReviewState(), id=id_of)


def _reads(command: ReviewProductRequest) -> Iterator[AggregateRef]:
    yield product.ref(command.product_id)
    yield user.ref(command.user_id)


@review.decides(ReviewProductRequest, reads=_reads)
def review_product(state: ReviewState, command: ReviewProductRequest, at: Deciding) -> Sequence[ProductReviewed]:
    """Record a new or changed review. An equal one records nothing."""
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
    """Replace the review."""
    return ReviewState(rating=event.rating, text=event.text)
