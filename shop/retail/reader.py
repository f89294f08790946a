"""Invoices from the rows of the CSV file, with a count of left-out rows by reason.

The file is read once, from the front, an invoice at a time. Only the ids of earlier invoices stay in memory.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple, TextIO

from shop.text import typed

COLUMNS = ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")
LINES_MAX = 2_000
"""Lines that the shop takes as one imported order or return."""
QUANTITY_MAX = 1_000_000
ID_MAX = 64
TEXT_MAX = 200

_DECIMALS_MAX = 9  # A Money counts in billionths.
_PRICE_END = Decimal(10) ** 10
_YEARS = range(1900, 2200)

_STRANGE_IN_IDS = re.compile(r"[^A-Za-z0-9._-]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_WRITTEN_AS_FLOAT = re.compile(r"([0-9]+)\.0*")
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")  # Not `1_000`, which Python reads as 1000.

_CORRECTION = "stock correction (only negative quantities, and no return)"
_BAD_DEBT = "adjustment of bad debt (invoice number A...)"
_POSITIVE = "positive quantity in a return"
_NEGATIVE = "negative quantity in a sale"
EXPECTED = frozenset({_CORRECTION, _BAD_DEBT, _POSITIVE, _NEGATIVE})
"""Reasons for rows that the data set has by intention and that are neither orders nor returns."""


class UnreadableFile(Exception):
    """A file that cannot be read as invoices. The message is a sentence."""


class LeftOut(Exception):
    """A row is left out. The message is the reason; `detail` has the names of the row."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


class Ids:
    """Ids by the texts that they were made from. An id belongs to the first text."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._texts: dict[str, str] = {}

    def claim(self, id: str, text: str) -> None:
        """Give an id to a text. Raise `LeftOut` if it belongs to another text."""
        before = self._texts.setdefault(id, text)
        if before != text:
            detail = f"{text!r} makes the id {id}, as {before!r} does"
            raise LeftOut(f"{self._subject} that makes the id of another one", detail)


class Line(NamedTuple):
    """Line of an invoice."""

    product_id: str
    name: str
    """Name of the product. Empty: it has none."""
    quantity: int
    """Pieces sold or returned, 1 or more."""
    price_nanos: int
    """Price of one piece in billionths of a pound."""


class Invoice(NamedTuple):
    """Lines that belong together; at least one."""

    id: str
    is_return: bool
    seconds: int
    """Seconds since 1970, UTC."""
    customer_id: str
    """Customer. Empty: none."""
    country: str
    lines: Sequence[Line]
    row: int
    """Number of its first row in the file, from 1, without the header."""


class InvoiceReader:
    """Reader of invoices; iterate over it once. Raises `UnreadableFile`."""

    def __init__(self, file: TextIO) -> None:
        self._rows = csv.reader(file, strict=True)
        self._line = 1
        self._ids: set[str] = set()
        self._invoices, self._names = Ids("invoice number"), _Names(Ids("stock code"), Ids("customer"))
        self.rows = 0
        """Rows read so far, without the header and without blank lines."""
        self.taken = 0
        """Rows of the invoices that the reader has yielded."""
        self.left_out: Counter[str] = Counter()
        """Left-out rows by reason, without those of the current invoice."""
        self.first_left_out: dict[str, str] = {}
        """Line number, and details if there are any, of the first left-out row by reason."""
        self.adapted: Counter[str] = Counter()
        """Rows of yielded invoices that differ from the first row in a field that an order has only once."""
        self._header = [name.strip() for name in self._next() or []]
        missing = [name for name in COLUMNS if name not in self._header]
        if missing:
            raise UnreadableFile(f"The file has no column {', '.join(missing)}.")
        double = [name for name in COLUMNS if self._header.count(name) > 1]
        if double:
            raise UnreadableFile(f"The file has several columns {', '.join(double)}.")

    @property
    def unusable(self) -> int:
        """Return the number of rows that were left out because of a fault, not because the data set has such rows."""
        return sum(count for reason, count in self.left_out.items() if reason not in EXPECTED)

    def __iter__(self) -> Iterator[Invoice]:
        gathering: _Gathering | None = None
        for invoice_no, row in self._numbered():
            if gathering is None or gathering.number != invoice_no:
                yield from self._finished(gathering)
                gathering = _Gathering(invoice_no, self.rows, self._line, self._names)
            gathering.add(row, self._line)
        yield from self._finished(gathering)

    def _numbered(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield the invoice number and the fields of each row, in the order of COLUMNS."""
        in_order = itemgetter(*(self._header.index(name) for name in COLUMNS))
        while (row := self._next()) is not None:
            if not row:
                continue
            self.rows += 1
            self._refuse_swallowed_rows(row)
            if len(row) != len(self._header):
                self._leave_out("row with more or fewer fields than the header")
                continue
            fields = in_order(row)
            number = fields[0].strip()
            if number:
                yield number, fields
            else:
                self._leave_out("no invoice number")

    def _next(self) -> list[str] | None:
        """Return the next row, empty for a blank line; None at the end of the file."""
        self._line = self._rows.line_num + 1
        try:
            return next(self._rows, None)
        except csv.Error as error:
            raise UnreadableFile(f"The row that begins in line {self._line:,} cannot be read: {error}.") from None
        except UnicodeDecodeError as error:
            raise UnreadableFile(f"What follows line {self._line - 1:,} cannot be read as UTF-8: {error}.") from None
        except OSError as error:
            raise UnreadableFile(f"What follows line {self._line - 1:,} cannot be read: {error}.") from None

    def _refuse_swallowed_rows(self, row: Sequence[str]) -> None:
        """Raise `UnreadableFile` if a field may contain other rows, because a quote was opened and not closed."""
        last = self._rows.line_num
        if last == self._line:
            return
        fields = len(self._header)
        if len(row) != fields or any(field.count(",") >= fields - 1 for field in row if "\n" in field or "\r" in field):
            raise UnreadableFile(
                f"A field that begins in line {self._line:,} and ends in line {last:,} seems to contain other rows. "
                f"Close or remove the quote in line {self._line:,}."
            )

    def _leave_out(self, reason: str, rows: int = 1, line: int = 0, detail: str = "") -> None:
        self.left_out[reason] += rows
        self.first_left_out.setdefault(reason, f"line {line or self._line:,}{detail and ': '}{detail}")

    def _finished(self, gathering: _Gathering | None) -> Iterator[Invoice]:
        if gathering is None:
            return
        id = id_of(gathering.number)
        reason, detail = gathering.reason_against_all(), ""
        if len(id) > ID_MAX:
            reason = f"invoice number longer than {ID_MAX} characters"
        else:
            try:
                self._invoices.claim(id, gathering.number)
            except LeftOut as error:
                reason, detail = str(error), error.detail
            else:
                if id in self._ids:
                    reason = "invoice number that had its invoice already, further up"
                self._ids.add(id)
        if reason:
            self._leave_out(reason, gathering.rows, gathering.line, detail)
            return
        for reason, (rows, line, detail) in gathering.left_out().items():
            self._leave_out(reason, rows, line, detail)
        if gathering.lines:
            self.adapted.update(gathering.adapted)
            self.taken += len(gathering.lines)
            yield gathering.invoice(id)


class _Names(NamedTuple):
    """Ids that rows have named."""

    products: Ids
    customers: Ids


class _LeftOut(NamedTuple):
    """Left-out rows of one invoice."""

    rows: int
    line: int
    """Line of the first one."""
    detail: str


class _Gathering:
    """Rows of one invoice while they are read."""

    def __init__(self, number: str, row: int, line: int, names: _Names) -> None:
        self.number = number
        self.rows = 0
        self.line = line
        self.lines: list[Line] = []
        self.adapted: Counter[str] = Counter()
        self._row = row
        self._is_return = number[0] in "Cc"
        self._names = names
        self._left_out: dict[str, _LeftOut] = {}
        self._wrong_sign = 0
        self._right_sign = 0
        self._lines = 0
        self._shared: tuple[int, str, str] = (0, "", "")

    def add(self, row: Sequence[str], line: int) -> None:
        """Add the next row, which begins in a line of the file."""
        self.rows += 1
        try:
            self._add(row)
        except LeftOut as error:
            first = self._left_out.get(str(error), _LeftOut(0, line, error.detail))
            self._left_out[str(error)] = first._replace(rows=first.rows + 1)

    def _add(self, row: Sequence[str]) -> None:
        _, stock_code, description, quantity_text, date, price, customer, country = row
        quantity = _quantity(quantity_text)
        if (quantity < 0) is not self._is_return:
            self._wrong_sign += 1
            raise LeftOut(_POSITIVE if self._is_return else _NEGATIVE)
        self._right_sign += 1
        shared = (_seconds(date), _customer_id(customer), _text(country))
        line = Line(_product_id(stock_code), _text(description), abs(quantity), _nanos(price))
        self._names.products.claim(line.product_id, stock_code.strip())
        if shared[1]:
            self._names.customers.claim(shared[1], _customer_text(customer))
        if not self._lines:
            self._shared = shared
        elif shared != self._shared:
            parts = zip(("time", "customer", "country"), shared, self._shared, strict=True)
            self.adapted.update(name for name, own, first in parts if own != first)
        self._lines += 1
        if self._lines <= LINES_MAX:  # More lines are only counted, because such an invoice is left out.
            self.lines.append(line)

    def reason_against_all(self) -> str:
        """Return the reason that leaves out all rows of this invoice; empty if there is none."""
        if self.number[0] in "Aa":
            return _BAD_DEBT
        if self._wrong_sign and not self._right_sign and not self._is_return:
            return _CORRECTION
        if self._lines > LINES_MAX:
            return f"invoice of more than {LINES_MAX:,} lines"
        return ""

    def left_out(self) -> dict[str, _LeftOut]:
        """Return the left-out rows by reason."""
        return self._left_out

    def invoice(self, id: str) -> Invoice:
        """Return the invoice of the rows."""
        seconds, customer_id, country = self._shared
        return Invoice(id, self._is_return, seconds, customer_id, country, self.lines, self._row)


@lru_cache(maxsize=20_000)
def id_of(text: str) -> str:
    """Return an id made from a text."""
    return _STRANGE_IN_IDS.sub("_", text)


@lru_cache(maxsize=20_000)
def _product_id(stock_code: str) -> str:
    id = id_of(stock_code.strip())
    if not id:
        raise LeftOut("no stock code")
    if len(id) > ID_MAX:
        raise LeftOut(f"stock code longer than {ID_MAX} characters")
    return id


@lru_cache(maxsize=20_000)
def _customer_text(customer: str) -> str:
    """Return a customer without the decimals of a number that was written as a float."""
    text = customer.strip()
    number = _WRITTEN_AS_FLOAT.fullmatch(text)
    return number[1] if number else text


@lru_cache(maxsize=20_000)
def _customer_id(customer: str) -> str:
    id = id_of(_customer_text(customer))
    if len(id) > ID_MAX:
        raise LeftOut(f"customer longer than {ID_MAX} characters")
    return id


@lru_cache(maxsize=20_000)
def _text(text: str) -> str:
    """Return a text that the contract allows, in the form in which the shop records it."""
    return typed(_CONTROLS.sub(" ", text))[:TEXT_MAX].strip()


@lru_cache(maxsize=20_000)
def _quantity(text: str) -> int:
    if not text.strip():
        raise LeftOut("no quantity")
    if not _WHOLE_NUMBER.fullmatch(text.strip()):
        raise LeftOut("quantity that is not a whole number")
    quantity = Decimal(text.strip())  # An int of more than 4,300 digits is an error of Python.
    if not quantity:
        raise LeftOut("quantity 0")
    if abs(quantity) > QUANTITY_MAX:
        raise LeftOut(f"quantity over {QUANTITY_MAX:,}")
    return int(quantity)


@lru_cache(maxsize=20_000)
def _nanos(text: str) -> int:
    if not text.strip():
        raise LeftOut("no price")
    if not _NUMBER.fullmatch(text.strip()):
        raise LeftOut("price that is not a number")
    try:
        price = Decimal(text.strip())
    except InvalidOperation:  # An exponent beyond all limits.
        raise LeftOut("price that is not a number") from None
    exponent = price.as_tuple().exponent
    if not isinstance(exponent, int):
        raise LeftOut("price that is not a number")
    if price < 0:
        raise LeftOut("negative price")
    if exponent < -_DECIMALS_MAX:
        raise LeftOut(f"price with more than {_DECIMALS_MAX} decimals")
    if price >= _PRICE_END:
        raise LeftOut(f"price of {_PRICE_END:,f} or more")
    return int(price.scaleb(_DECIMALS_MAX))


@lru_cache(maxsize=20_000)
def _seconds(text: str) -> int:
    if not text.strip():
        raise LeftOut("no date")
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError:
        raise LeftOut("date that is not YYYY-MM-DD HH:MM:SS") from None
    if date.year not in _YEARS:
        raise LeftOut(f"date before {_YEARS.start} or after {_YEARS.stop - 1}")
    # Times in the file have no zone; the import reads them as UTC.
    utc = date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    return int(utc.timestamp())
