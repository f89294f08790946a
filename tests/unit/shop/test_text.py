"""Typed texts: one name is one name, in whichever Unicode form, case and white space it is typed."""

from __future__ import annotations

from unicodedata import is_normalized, normalize

import pytest
from google.protobuf.message import Message
from google.type.money_pb2 import Money
from hypothesis import given as for_all
from hypothesis import strategies as st

from diptych.testing import ask, given
from shop.orders import order
from shop.product_views import products
from shop.products import product
from shop.refusals import UsernameTaken
from shop.text import comparable, typed
from shop.user_views import users
from shop.users import email_of, user, username_of
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest
from shop.v1.order_events_pb2 import OrderImported
from shop.v1.product_commands_pb2 import CreateProductRequest, UpdateProductRequest
from shop.v1.product_events_pb2 import ProductCreated
from shop.v1.product_queries_pb2 import SearchProductsRequest
from shop.v1.user_commands_pb2 import RegisterUserRequest, UpdateUserProfileRequest
from shop.v1.user_events_pb2 import UserProfileUpdated, UserRegistered
from shop.v1.user_queries_pb2 import FindUsersByEmailRequest, ListUsersRequest
from shop.v1.users_pb2 import USER_ROLE_CUSTOMER

COMPOSED, DECOMPOSED = "Jos\u00e9", "Jose\u0301"
MARKS = st.text(
    st.sampled_from("aeEsSIi\u0131\u017fßÅå\u00e9\u0301\u0307\u0323\u0345\u212b\u03a9\u2126ΐﬃ \u00a0\u3000"),
    max_size=12,
)
TEXTS = st.text(max_size=12) | MARKS


@for_all(TEXTS)
def test_the_forms_of_a_text_are_recorded_and_compared_as_one(text: str) -> None:
    recorded = typed(text)
    assert is_normalized("NFC", recorded)
    assert recorded == recorded.strip() == typed(recorded)
    for form in (normalize("NFC", text), normalize("NFD", text), f" {text}\u3000"):
        assert typed(form) == recorded
        assert comparable(form) == comparable(text)
    for cased in (recorded, text.upper().lower(), text.casefold(), comparable(text)):
        if normalize("NFD", normalize("NFD", cased).casefold()) == normalize("NFD", normalize("NFD", text).casefold()):
            assert comparable(cased) == comparable(text)
    assert comparable(recorded) == comparable(text) == comparable(comparable(text))


@pytest.mark.parametrize("name", [DECOMPOSED, COMPOSED, f" {COMPOSED.upper()} ", f"{DECOMPOSED.lower()}\u00a0"])
@pytest.mark.parametrize("recorded", [COMPOSED, DECOMPOSED])
def test_bug_a_username_in_another_unicode_form_was_another_user(name: str, recorded: str) -> None:
    first = UserRegistered(user_id="a", email="a@example.com", username=recorded, role=USER_ROLE_CUSTOMER)
    second = RegisterUserRequest(user_id="b", email="b@example.com", username=name)
    given(user).when(second, also=[given(user, first)]).refused(UsernameTaken(username="jos\u00e9"))
    for search in (COMPOSED, DECOMPOSED, name):
        listed = ask(users, ListUsersRequest(name=search), first)
        assert [summary.user_id for summary in listed.users] == ["a"]


def test_names_are_recorded_composed_and_trimmed() -> None:
    command = RegisterUserRequest(
        user_id="a", email="a@example.com", username=f" {DECOMPOSED}", first_name=f"{DECOMPOSED} ", last_name="\u3000M "
    )
    expected = UserRegistered(
        user_id="a",
        email="a@example.com",
        username=COMPOSED,
        first_name=COMPOSED,
        last_name="M",
        role=USER_ROLE_CUSTOMER,
    )
    given(user).when(command).then(expected)
    named = given(user, expected)
    named.when(UpdateUserProfileRequest(user_id="a", username=DECOMPOSED, first_name=f" {COMPOSED}")).then_nothing()
    named.when(UpdateUserProfileRequest(user_id="a", username="  ", first_name=" \u00a0")).then_nothing()
    changed = named.when(UpdateUserProfileRequest(user_id="a", username=f"{DECOMPOSED}2 "))
    (event,) = changed.events
    assert isinstance(event, UserProfileUpdated)
    assert (event.username, event.previous_username) == (f"{COMPOSED}2", COMPOSED)


def test_an_email_is_found_in_any_case() -> None:
    ada = UserRegistered(user_id="a", email="Ada@Example.com", role=USER_ROLE_CUSTOMER)
    for request in (FindUsersByEmailRequest(email="aDA@example.COM"), ListUsersRequest(email=" DA@ex ")):
        assert [summary.user_id for summary in ask(users, request, ada).users] == ["a"]


def test_products_are_recorded_and_found_in_any_unicode_form() -> None:
    price = Money(currency_code="GBP")
    command = CreateProductRequest(
        product_id="p", name=f" {DECOMPOSED}", category=f"{DECOMPOSED}s ", brand=f" & {DECOMPOSED}", price=price
    )
    created = ProductCreated(product_id="p", name=COMPOSED, category=f"{COMPOSED}s", brand=f"& {COMPOSED}", price=price)
    given(product).when(command).then(created)
    same = UpdateProductRequest(product_id="p", name=f"{DECOMPOSED} ", category=f" {DECOMPOSED}s", brand=" ")
    given(product, created).when(same).then_nothing()
    as_typed = ProductCreated(
        product_id="p", name=DECOMPOSED, category=f" {DECOMPOSED}s", brand=f"& {DECOMPOSED} ", price=price
    )
    searches: list[Message] = [
        SearchProductsRequest(text=f" {form.upper()} ", category=f"{form}s ", brand=f" & {form}")
        for form in (COMPOSED, DECOMPOSED)
    ]
    for search in [*searches, SearchProductsRequest(text="  ", category=" ", brand=" ")]:
        for event in (created, as_typed):
            found = ask(products, search, event)
            assert [each.product_id for each in found.products] == ["p"]


def test_a_country_is_recorded_in_one_form() -> None:
    item = ImportedItem(product_id="p", quantity=1, unit_price=Money(currency_code="GBP"))
    command = ImportOrderRequest(order_id="o", country="Co\u0302te d'Ivoire ", items=[item], order_time={"seconds": 1})
    created = given(product, ProductCreated(product_id="p", price=Money(currency_code="GBP")))
    (event,) = given(order).when(command, also=[created]).events
    assert isinstance(event, OrderImported)
    assert event.country == "C\u00f4te d'Ivoire"


def test_unique_values_are_empty_for_nothing_but_white_space() -> None:
    state = user.initial
    assert (email_of(state), username_of(state)) == ("", "")
