"""The retail import: its rows, its commands and its sums."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from diptych.client import CallRefused
from diptych.contract.validation import check
from diptych.v1.commands_pb2 import CommandResult
from shop.import_retail import figures_by_key
from shop.retail.commands import Command, Commands, email_of
from shop.retail.importer import Tally, messages_of
from shop.retail.reader import COLUMNS, Invoice, InvoiceReader, Line, UnreadableFile
from shop.retail.report import Comparison, pounds, sum_lines
from shop.retail.sums import Figures, Summing, Sums
from shop.v1 import order_commands_pb2, product_commands_pb2, user_commands_pb2
from shop.v1.analytics_pb2 import AnalyticsGroup
from shop.v1.order_commands_pb2 import ImportedItem, ImportOrderRequest, ImportReturnRequest
from shop.v1.orders_pb2 import ORDER_STATUS_DELIVERED
from shop.v1.product_commands_pb2 import ChangePriceRequest, CreateProductRequest, UpdateProductRequest
from shop.v1.user_commands_pb2 import RegisterUserRequest

POUND = 1_000_000_000
ROW = {
    "InvoiceNo": "536365",
    "StockCode": "85123A",
    "Description": "HEART",
    "Quantity": "6",
    "InvoiceDate": "2010-12-01 08:26:00",
    "UnitPrice": "2.55",
    "CustomerID": "17850.0",
    "Country": "United Kingdom",
}
AT_8_26 = int(datetime(2010, 12, 1, 8, 26, tzinfo=UTC).timestamp())
STOCK_CORRECTION = "stock correction (only negative quantities, and no return)"


def row(**fields: str) -> Mapping[str, str]:
    """A row with other values in some fields."""
    return {**ROW, **fields}


def reader(*rows: Mapping[str, str]) -> InvoiceReader:
    """A reader of a file with these rows."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return InvoiceReader(io.StringIO(text.getvalue(), newline=""))


def invoices(*rows: Mapping[str, str]) -> list[Invoice]:
    return list(reader(*rows))


def left_out(*rows: Mapping[str, str]) -> dict[str, int]:
    """Return the left-out rows by reason; check that each row is counted."""
    read = reader(*rows)
    taken = sum(len(invoice.lines) for invoice in read)
    assert read.taken == taken
    assert read.rows == len(rows) == taken + read.left_out.total()
    return dict(read.left_out)


def commands(*rows: Mapping[str, str]) -> list[Command]:
    """Return the commands for these rows; check that no request id comes twice."""
    making = Commands()
    made = [command for invoice in reader(*rows) for command in making.of(invoice)]
    ids = [command.envelope.context.request_id for command in made]
    assert len(set(ids)) == len(ids)
    return made


def messages(*rows: Mapping[str, str]) -> list[Message]:
    """The messages of the commands."""
    modules = (order_commands_pb2, product_commands_pb2, user_commands_pb2)
    unpacked: list[Message] = []
    for command in commands(*rows):
        packed = command.envelope.command
        name = packed.TypeName().rpartition(".")[2]
        message: Message = next(getattr(module, name)() for module in modules if hasattr(module, name))
        assert packed.Unpack(message)
        unpacked.append(message)
    return unpacked


def gbp(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="GBP", units=units, nanos=nanos)


# Reading


def test_rows_with_one_number_make_one_invoice() -> None:
    assert invoices(row(), row(StockCode="71053", Description=" LANTERN ", Quantity="2", UnitPrice="0.125")) == [
        Invoice(
            id="536365",
            is_return=False,
            seconds=AT_8_26,
            customer_id="17850",
            country="United Kingdom",
            lines=[Line("85123A", "HEART", 6, 2_550_000_000), Line("71053", "LANTERN", 2, 125_000_000)],
            row=1,
        )
    ]


def test_a_number_that_begins_with_c_takes_goods_back() -> None:
    (invoice,) = invoices(row(InvoiceNo="C536379", Quantity="-3"))
    assert (invoice.id, invoice.is_return) == ("C536379", True)
    assert [line.quantity for line in invoice.lines] == [3]


def test_a_return_with_a_positive_quantity_loses_that_line() -> None:
    assert left_out(row(InvoiceNo="C1", Quantity="-1"), row(InvoiceNo="C1", Quantity="2")) == {
        "positive quantity in a return": 1
    }


def test_a_sale_with_only_negative_quantities_is_a_stock_correction() -> None:
    assert left_out(row(Quantity="-10", UnitPrice="0.0"), row(Quantity="-1", UnitPrice="")) == {STOCK_CORRECTION: 2}


def test_a_negative_quantity_among_sales_is_left_out_alone() -> None:
    assert left_out(row(), row(Quantity="-1"), row(StockCode="71053")) == {"negative quantity in a sale": 1}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("InvoiceNo", " ", "no invoice number"),
        ("InvoiceNo", "9" * 65, "invoice number longer than 64 characters"),
        ("InvoiceNo", "A563185", "adjustment of bad debt (invoice number A...)"),
        ("StockCode", "", "no stock code"),
        ("StockCode", "x" * 65, "stock code longer than 64 characters"),
        ("CustomerID", "1" * 65, "customer longer than 64 characters"),
        ("Quantity", "", "no quantity"),
        ("Quantity", "0", "quantity 0"),
        ("Quantity", "6.5", "quantity that is not a whole number"),
        ("Quantity", "1000001", "quantity over 1,000,000"),
        ("Quantity", "1_000", "quantity that is not a whole number"),
        ("Quantity", "\uff11\uff12", "quantity that is not a whole number"),
        ("Quantity", "9" * 5_000, "quantity over 1,000,000"),
        ("UnitPrice", "1_000", "price that is not a number"),
        ("UnitPrice", "\u0661", "price that is not a number"),
        ("UnitPrice", ".", "price that is not a number"),
        ("UnitPrice", "1e-99999999999999999999", "price that is not a number"),
        ("UnitPrice", "", "no price"),
        ("UnitPrice", "free", "price that is not a number"),
        ("UnitPrice", "NaN", "price that is not a number"),
        ("UnitPrice", "Infinity", "price that is not a number"),
        ("UnitPrice", "-11062.06", "negative price"),
        ("UnitPrice", "0.0000000001", "price with more than 9 decimals"),
        ("UnitPrice", "1e10", "price of 10,000,000,000 or more"),
        ("InvoiceDate", "", "no date"),
        ("InvoiceDate", "yesterday", "date that is not YYYY-MM-DD HH:MM:SS"),
        ("InvoiceDate", "1899-12-31 23:59:59", "date before 1900 or after 2199"),
    ],
)
def test_an_invalid_row_is_left_out_under_its_reason(field: str, value: str, reason: str) -> None:
    rows = (row(**{field: value}), row(InvoiceNo="536366"))
    assert left_out(*rows) == {reason: 1}
    read = reader(*rows)
    list(read)
    assert read.first_left_out == {reason: "line 2"}
    assert read.unusable == (not value.startswith("A"))


def test_the_other_lines_of_an_invoice_are_taken() -> None:
    read = reader(row(Quantity="none"), row(), row(UnitPrice="?"))
    assert [len(invoice.lines) for invoice in read] == [1]
    assert read.left_out.total() == 2


def test_a_line_that_is_shorter_than_the_header_is_left_out_and_a_blank_one_is_no_row() -> None:
    header = ",".join(COLUMNS)
    read = InvoiceReader(io.StringIO(f"{header}\n\n536365,85123A\n{','.join(ROW.values())}\n"))
    assert len(list(read)) == 1
    assert read.rows == 2
    assert dict(read.left_out) == {"row with more or fewer fields than the header": 1}


def test_columns_are_found_by_name() -> None:
    names = [*reversed(COLUMNS), "Comment"]
    values = [{**ROW, "Comment": ""}[name] for name in names]
    assert list(InvoiceReader(io.StringIO(f"{','.join(names)}\n{','.join(values)}\n"))) == invoices(row())


@pytest.mark.parametrize("text", ["", "InvoiceNo,Quantity\n1,2\n"])
def test_missing_columns_are_named(text: str) -> None:
    with pytest.raises(UnreadableFile, match=r"no column .*UnitPrice"):
        InvoiceReader(io.StringIO(text))


def test_a_file_that_is_not_utf_8_cannot_be_read() -> None:
    content = ",".join(COLUMNS).encode() + b"\n" + ",".join(ROW.values()).encode() + b"\n" + b"\xa3" * 20_000
    file = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline="")
    with pytest.raises(UnreadableFile, match="cannot be read as UTF-8"):
        list(InvoiceReader(file))


def test_an_invoice_that_comes_in_two_pieces_is_taken_as_far_as_its_first_piece() -> None:
    assert left_out(row(), row(InvoiceNo="536366"), row(StockCode="71053")) == {
        "invoice number that had its invoice already, further up": 1
    }


@pytest.mark.parametrize(
    ("field", "first", "second", "subject"),
    [
        ("InvoiceNo", "53 6", "53/6", "invoice number"),
        ("StockCode", "BANK CHARGES", "BANK_CHARGES", "stock code"),
        ("StockCode", "É", "Ü", "stock code"),
        ("CustomerID", "a b", "a/b", "customer"),
    ],
)
def test_bug_texts_that_make_one_id_were_mixed(field: str, first: str, second: str, subject: str) -> None:
    rows = [row(**{"InvoiceNo": f"{n}", field: text}) for n, text in enumerate((first, second, f" {first} ", second))]
    rows = rows[:2] if field == "InvoiceNo" else rows
    read = reader(*rows)
    assert sum(len(invoice.lines) for invoice in read) == len(rows) // 2
    reason = f"{subject} that makes the id of another one"
    assert dict(read.left_out) == {reason: len(rows) // 2}
    id = "".join(char if (char.isascii() and char.isalpha()) or char.isdigit() else "_" for char in first)
    assert read.first_left_out == {reason: f"line 3: {second!r} makes the id {id}, as {first!r} does"}
    assert read.unusable == len(rows) // 2


def test_a_customer_number_with_and_without_decimals_is_one_customer() -> None:
    assert (
        left_out(row(CustomerID="1.0"), row(InvoiceNo="2", CustomerID="1"), row(InvoiceNo="3", CustomerID="1.")) == {}
    )


HEADER = ",".join(COLUMNS)
GOOD = ",".join(ROW.values())
OPEN = GOOD.replace("HEART", '"12 inch')
CLOSE = GOOD.replace("HEART", '12 inch"')


@pytest.mark.parametrize(
    ("lines", "begins"),
    [
        ([GOOD, OPEN, *[GOOD] * 50], 3),  # To the end of the file.
        ([GOOD, "", OPEN, *[GOOD] * 5_000], 4),  # Beyond the limit of a field.
        ([OPEN, GOOD, CLOSE], 2),
        ([OPEN, CLOSE], 2),
        ([OPEN, GOOD, GOOD.replace("85123A", '85123"'), GOOD], 2),
        ([OPEN, GOOD.replace("United Kingdom", 'UK"'), GOOD], 2),
        ([GOOD, GOOD.replace("United Kingdom", '"UK'), GOOD.replace("536365", '5"'), GOOD], 3),
        ([OPEN, GOOD.replace("HEART", '"quoted, well"')], 2),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_bug_an_open_quote_swallowed_rows(lines: list[str], begins: int, end: str) -> None:
    with pytest.raises(UnreadableFile, match=rf"begins in line {begins}\b"):
        list(InvoiceReader(io.StringIO(end.join([HEADER, *lines, ""]), newline="")))


def test_a_quoted_line_break_is_part_of_a_description() -> None:
    text = GOOD.replace("HEART", '"A, ""b""\r\nC"')
    read = InvoiceReader(io.StringIO(f"{HEADER}\n{text}\n{GOOD.replace('6', 'x')}\n", newline=""))
    assert [line.name for invoice in read for line in invoice.lines] == ['A, "b"  C']
    assert read.first_left_out == {"quantity that is not a whole number": "line 4"}


def test_a_column_that_comes_twice_is_named() -> None:
    with pytest.raises(UnreadableFile, match="several columns Quantity"):
        InvoiceReader(io.StringIO(f"{HEADER},Quantity\n"))


@given(st.lists(st.text("aAbB.-_0", min_size=1, max_size=5) | st.just("k" * 64), min_size=2, max_size=9, unique=True))
def test_each_customer_has_an_address_of_its_own_that_the_contract_takes(ids: list[str]) -> None:
    emails = [email_of(id) for id in ids]
    assert len({email.casefold() for email in emails}) == len(ids)
    for email in emails:
        check(RegisterUserRequest(email=email))


def test_bug_customers_that_differ_in_case_had_one_address() -> None:
    made = messages(row(CustomerID="abc"), row(InvoiceNo="2", CustomerID="ABC"))
    emails = [message.email.casefold() for message in made if isinstance(message, RegisterUserRequest)]
    assert len(set(emails)) == 2
    assert emails[0] == "abc@retail.invalid"


def test_an_invoice_of_2000_lines_is_taken_and_a_longer_one_is_left_out() -> None:
    assert left_out(*[row()] * 2000) == {}
    assert left_out(*[row()] * 2001, row(Quantity="0")) == {"invoice of more than 2,000 lines": 2002}


def test_an_invoice_without_a_customer_has_none() -> None:
    assert [invoice.customer_id for invoice in invoices(row(CustomerID=""))] == [""]


def test_an_invoice_has_the_time_of_its_first_line_and_counts_other_times() -> None:
    read = reader(row(), row(InvoiceDate="2010-12-01 08:27:00"), row(CustomerID=""))
    assert [(invoice.seconds, invoice.customer_id) for invoice in read] == [(AT_8_26, "17850")]
    assert dict(read.adapted) == {"time": 1, "customer": 1}


def test_texts_lose_characters_that_the_contract_forbids() -> None:
    (invoice,) = invoices(row(Description=" A\tB\n" + "x" * 300, Country=" EIRE "))
    assert invoice.lines[0].name == ("A B " + "x" * 300)[:200]
    assert invoice.country == "EIRE"


# Commands


def test_an_invoice_creates_user_and_products_before_the_order() -> None:
    assert messages(row(StockCode="BANK CHARGES", UnitPrice="0.001")) == [
        RegisterUserRequest(user_id="17850", email="17850@retail.invalid", registration_source="retail"),
        CreateProductRequest(product_id="BANK_CHARGES", name="HEART", price=gbp(0, 1_000_000)),
        ImportOrderRequest(
            order_id="536365",
            customer_id="17850",
            order_time={"seconds": AT_8_26},
            country="United Kingdom",
            items=[ImportedItem(product_id="BANK_CHARGES", quantity=6, unit_price=gbp(0, 1_000_000))],
            status=ORDER_STATUS_DELIVERED,
        ),
    ]


def test_a_return_has_positive_quantities() -> None:
    assert messages(row(InvoiceNo="C1", Quantity="-2", CustomerID=""))[-1] == ImportReturnRequest(
        return_id="C1",
        return_time={"seconds": AT_8_26},
        country="United Kingdom",
        items=[ImportedItem(product_id="85123A", quantity=2, unit_price=gbp(2, 550_000_000))],
    )


def test_a_product_has_the_first_name_and_the_last_price_of_its_invoice() -> None:
    made = messages(row(Description=""), row(UnitPrice="3"), row(Description="other", UnitPrice="0"))
    assert made[1] == CreateProductRequest(product_id="85123A", name="HEART", price=gbp(0))
    order = made[2]
    assert isinstance(order, ImportOrderRequest)
    assert [item.unit_price.units for item in order.items] == [2, 3, 0]


def test_a_later_invoice_changes_a_price_once_and_only_if_it_differs() -> None:
    later = messages(
        row(CustomerID=""),
        row(InvoiceNo="2", CustomerID="", UnitPrice="2.550"),
        row(InvoiceNo="3", CustomerID="", UnitPrice="9"),
        row(InvoiceNo="3", CustomerID="", UnitPrice="3"),
        row(InvoiceNo="4", CustomerID="", UnitPrice="9"),
        row(InvoiceNo="4", CustomerID="", UnitPrice="3"),
    )
    assert [message for message in later if isinstance(message, ChangePriceRequest)] == [
        ChangePriceRequest(product_id="85123A", price=gbp(3))
    ]
    assert len([message for message in later if isinstance(message, CreateProductRequest)]) == 1


def test_a_product_gets_its_first_name_when_one_comes() -> None:
    made = messages(
        row(Description=""), row(InvoiceNo="2", Description="first"), row(InvoiceNo="3", Description="other")
    )
    assert [message for message in made if isinstance(message, UpdateProductRequest)] == [
        UpdateProductRequest(product_id="85123A", name="first")
    ]


def test_a_customer_is_registered_once() -> None:
    made = messages(row(), row(InvoiceNo="2"), row(InvoiceNo="3", CustomerID="17850"))
    assert len([message for message in made if isinstance(message, RegisterUserRequest)]) == 1


def test_left_out_rows_create_nothing() -> None:
    assert [command.kind for command in commands(row(Quantity="-1", StockCode="lost"), row(InvoiceNo="A1"))] == []


def test_stock_codes_that_differ_in_case_are_two_products() -> None:
    made = [command.of for command in commands(row(), row(StockCode="85123a")) if command.kind == "CreateProduct"]
    assert made == ["85123A", "85123a"]


def test_commands_and_their_request_ids_come_from_the_rows_up_to_their_invoice() -> None:
    rows = [row(), row(InvoiceNo="2", UnitPrice="1"), row(InvoiceNo="3", StockCode="POST", CustomerID="1.0")]
    assert commands(*rows)[: len(commands(*rows[:2]))] == commands(*rows[:2])


def test_a_price_that_changes_twice_and_a_customer_named_as_an_invoice_have_ids_of_their_own() -> None:
    prices = [row(InvoiceNo=f"{number}", UnitPrice=f"{number}", CustomerID="2") for number in range(1, 4)]
    kinds = [command.kind for command in commands(*prices)]  # It checks that no id comes twice.
    assert kinds.count("ChangePrice") == 2
    assert kinds.count("RegisterUser") == 1


def sent(batch: int, *rows: Mapping[str, str]) -> list[list[str]]:
    """Return the kinds of the commands by message; check that all commands are sent and all invoices summed."""
    summing = Summing()
    made = list(messages_of(reader(*rows), summing, batch))
    assert [command for message in made for command in message] == commands(*rows)
    sums = summing.sums()
    assert (sums.whole.orders if sums else 0) == len({each["InvoiceNo"] for each in rows})
    return [[command.kind for command in message] for message in made]


def test_messages_have_the_size_of_a_batch_and_the_last_one_the_rest() -> None:
    rows = [row(InvoiceNo=f"{number}", CustomerID="") for number in range(6)]
    assert [len(message) for message in sent(3, *rows)] == [3, 3, 1]
    assert sent(100) == []


def test_a_message_ends_at_its_limit_in_bytes_and_the_next_one_begins_anew() -> None:
    rows = [row(InvoiceNo=f"{number}", CustomerID="") for number in range(100) for _ in range(2_000)]
    sizes = [len(message) for message in sent(1_000, *rows)]
    assert len(sizes) > 2
    assert min(sizes[:-1]) > 5


def test_request_ids_are_never_too_long() -> None:
    made = commands(row(InvoiceNo="9" * 64, StockCode="x" * 64), row(InvoiceNo="8" * 64, StockCode="x" * 64))
    assert all(len(command.envelope.context.request_id) <= 128 for command in made)


# Sums


def test_sums_are_exact_by_day_by_country_and_in_total() -> None:
    summing = Summing()
    for invoice in invoices(
        row(Quantity="3", UnitPrice="0.001"),
        row(InvoiceNo="2", Quantity="1", UnitPrice="0.1", InvoiceDate="2010-12-02 00:00:00"),
        row(InvoiceNo="3", Quantity="1", UnitPrice="0.2", InvoiceDate="2010-12-02 23:59:59", Country="EIRE"),
        row(InvoiceNo="C4", Quantity="-2", UnitPrice="1", InvoiceDate="2010-12-02 12:00:00", Country="EIRE"),
    ):
        summing.add(invoice)
    sums = summing.sums()
    assert sums is not None
    tenth = POUND // 10
    first = Figures(3_000_000, 0, 3_000_000, 1, 3)
    assert sums.days == {
        "2010-12-01": first,
        "2010-12-02": Figures(3 * tenth, 2 * POUND, 3 * tenth - 2 * POUND, 2, 2),
    }
    assert sums.countries == {
        "EIRE": Figures(2 * tenth, 2 * POUND, 2 * tenth - 2 * POUND, 1, 1),
        "United Kingdom": Figures(tenth + 3_000_000, 0, tenth + 3_000_000, 2, 4),
    }
    assert sums.whole == Figures(303_000_000, 2 * POUND, 303_000_000 - 2 * POUND, 3, 5)


def test_sums_agree_only_if_each_day_and_each_country_does() -> None:
    one, two = Figures(gross=1, net=1, orders=1), Figures(gross=2, net=2, orders=1)
    whole = Figures(gross=3, net=3, orders=2)
    file = Sums({"2010-12-01": one, "2010-12-02": two}, {"": one, "EIRE": two}, whole)
    days_exchanged = file._replace(days={"2010-12-01": two, "2010-12-02": one})
    countries_exchanged = file._replace(countries={"": two, "EIRE": one})
    assert Comparison(file, file).agrees
    for read in (days_exchanged, countries_exchanged, file._replace(whole=one)):
        assert not Comparison(file, read).agrees
        assert any(line.endswith("  DIFFERS") for line in sum_lines(Comparison(file, read)))
    assert not any("DIFFERS" in line for line in sum_lines(Comparison(file, file)))


def test_figures_of_other_currencies_are_not_compared() -> None:
    euros = AnalyticsGroup(key="EIRE", currency_code="EUR", orders=7)
    pounds_ = AnalyticsGroup(key="EIRE", currency_code="GBP", orders=1, gross=gbp(2), net=gbp(2))
    expected = {"EIRE": Figures(gross=2 * POUND, net=2 * POUND, orders=1)}
    assert figures_by_key([euros, pounds_]) == figures_by_key([pounds_, euros]) == expected


def test_nothing_taken_has_no_sums() -> None:
    assert Summing().sums() is None


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0.00"), (2_550_000_000, "2.55"), (1_000_000, "0.001"), (-1_234_500_000_000, "-1,234.50")],
)
def test_amounts_are_shown_exactly(nanos: int, text: str) -> None:
    assert pounds(nanos) == text


# Outcomes


def refused(code: int, reason: str = "") -> CallRefused:
    refusal = CallRefused(status_pb2.Status(code=code, message="It is refused."))
    refusal.reason = reason
    return refusal


def test_each_outcome_is_counted_by_its_kind() -> None:
    tally = Tally()
    create, order = commands(row(CustomerID=""))
    tally.add(create, CommandResult(version=1))
    tally.add(create, CommandResult(version=1, duplicate=True))
    tally.add(create, refused(code_pb2.ALREADY_EXISTS, "PRODUCT_EXISTS"))
    for _ in range(5):
        tally.add(order, refused(code_pb2.ALREADY_EXISTS, "ORDER_EXISTS"))
    tally.add(order, refused(code_pb2.FAILED_PRECONDITION, "UNKNOWN_PRODUCT"))
    tally.add(order, refused(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED"))
    assert dict(tally.accepted) == {"CreateProduct": 1}
    assert (tally.duplicates, dict(tally.there_already)) == (1, {"CreateProduct": 1})
    assert tally.refusals == 5
    assert tally.refused["ImportOrder", "ORDER_EXISTS"].examples == ("536365: It is refused.",) * 3
    assert len(tally.again) == 2
    tally.give_up()
    assert tally.refusals == 7


@pytest.mark.parametrize("reason", ["UNKNOWN_USER", "UNKNOWN_PRODUCT", "PRODUCT_NOT_FOUND"])
def test_a_command_before_its_cause_is_repeated_and_the_number_of_repeats_is_bounded(reason: str) -> None:
    tally = Tally()
    (*_, order) = commands(row(CustomerID=""))
    for _ in range(10_001):
        tally.add(order, refused(code_pb2.FAILED_PRECONDITION, reason))
    assert (len(tally.again), tally.refusals) == (10_000, 1)
