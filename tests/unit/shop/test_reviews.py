"""Reviews: one per user and product, by users who can act, of products that are there."""

from diptych.testing import given
from shop.products import product
from shop.refusals import UnknownProduct, UnknownUser, UserDeactivated
from shop.reviews import review
from shop.users import user
from shop.v1.product_commands_pb2 import ReviewProductRequest
from shop.v1.product_events_pb2 import ProductCreated, ProductReviewed
from shop.v1.user_events_pb2 import UserDeactivated as UserWasDeactivated
from shop.v1.user_events_pb2 import UserReactivated, UserRegistered

registered = UserRegistered(user_id="ada", email="ada@example.com", role="USER_ROLE_CUSTOMER")
deactivated = UserWasDeactivated(user_id="ada", role="USER_ROLE_CUSTOMER")
tea = given(product, ProductCreated(product_id="tea"))
ada = given(user, registered)

good = ProductReviewed(product_id="tea", user_id="ada", rating=5, text="Good.")


def of_tea(rating: int, text: str = "") -> ReviewProductRequest:
    return ReviewProductRequest(product_id="tea", user_id="ada", rating=rating, text=text)


def test_a_first_review_is_recorded() -> None:
    given(review).when(of_tea(5, "Good."), also=[tea, ada]).then(good)
    assert review.deciders["shop.v1.ReviewProductRequest"].id_of(of_tea(5)) == "tea/ada"


def test_a_later_review_replaces_the_former_and_names_it() -> None:
    given(review, good, id="tea/ada").when(of_tea(2), also=[tea, ada]).then(
        ProductReviewed(product_id="tea", user_id="ada", rating=2, previous_rating=5, previous_text="Good.")
    )


def test_another_text_alone_is_another_review() -> None:
    given(review, good, id="tea/ada").when(of_tea(5, "Very good."), also=[tea, ada]).then(
        ProductReviewed(
            product_id="tea", user_id="ada", rating=5, text="Very good.", previous_rating=5, previous_text="Good."
        )
    )


def test_the_same_review_again_adds_nothing() -> None:
    given(review, good, id="tea/ada").when(of_tea(5, "Good."), also=[tea, ada]).then_nothing()


def test_named_users_and_products_must_exist() -> None:
    given(review).when(of_tea(5), also=[ada]).refused(UnknownProduct(product_id="tea"))
    given(review).when(of_tea(5), also=[tea]).refused(UnknownUser(user_id="ada"))


def test_a_deactivated_user_cannot_review_until_reactivated() -> None:
    gone = given(user, registered, deactivated)
    given(review, good, id="tea/ada").when(of_tea(1), also=[tea, gone]).refused(UserDeactivated(user_id="ada"))
    back = given(user, registered, deactivated, UserReactivated(user_id="ada", role="USER_ROLE_CUSTOMER"))
    assert given(review).when(of_tea(1), also=[tea, back]).refusal is None


def test_an_invalid_command_is_not_decided() -> None:
    given(review).when(ReviewProductRequest(rating=6)).invalid("product_id", "user_id", "rating")
