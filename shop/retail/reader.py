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
_WRITTEN_AS_FLOAT = re.compile(r"(\d+)\.0*")


class UnreadableFile(Exception):
    """A file that cannot be read as invoices. The message is a sentence."""


class LeftOut(Exception):
    """A row is left out. The message is the reason."""


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
        self._rows = csv.reader(file)
        self._ids: set[str] = set()
        self.rows = 0
        """Rows read so far, without the header and without blank lines."""
        self.taken = 0
        """Rows of the invoices that the reader has yielded."""
        self.left_out: Counter[str] = Counter()
        """Left-out rows by reason, without those of the current invoice."""
        self.adapted: Counter[str] = Counter()
        """Rows of yielded invoices that differ from the first row in a field that an order has only once."""
        try:
            self._header = [name.strip() for name in next(self._rows, [])]
        except (csv.Error, UnicodeDecodeError) as error:
            raise UnreadableFile(f"The header cannot be read: {error}.") from None
        missing = [name for name in COLUMNS if name not in self._header]
        if missing:
            raise UnreadableFile(f"The file has no column {', '.join(missing)}.")

    def __iter__(self) -> Iterator[Invoice]:
        gathering: _Gathering | None = None
        for invoice_no, row in self._numbered():
            if gathering is None or gathering.number != invoice_no:
                yield from self._finished(gathering)
                gathering = _Gathering(invoice_no, self.rows)
            gathering.add(row)
        yield from self._finished(gathering)

    def _numbered(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield the invoice number and the fields of each row, in the order of COLUMNS."""
        in_order = itemgetter(*(self._header.index(name) for name in COLUMNS))
        try:
            for row in self._rows:
                if not row:
                    continue
                self.rows += 1
                if len(row) != len(self._header):
                    self.left_out["row with more or fewer fields than the header"] += 1
                    continue
                fields = in_order(row)
                number = fields[0].strip()
                if number:
                    yield number, fields
                else:
                    self.left_out["no invoice number"] += 1
        except (csv.Error, UnicodeDecodeError) as error:
            raise UnreadableFile(f"What follows row {self.rows:,} cannot be read: {error}.") from None

    def _finished(self, gathering: _Gathering | None) -> Iterator[Invoice]:
        if gathering is None:
            return
        id = id_of(gathering.number)
        reason = gathering.reason_against_all()
        if len(id) > ID_MAX:
            reason = f"invoice number longer than {ID_MAX} characters"
        elif id in self._ids:
            reason = "invoice number that had its invoice already, further up"
        self._ids.add(id)
        if reason:
            self.left_out[reason] += gathering.rows
            return
        self.left_out.update(gathering.left_out())
        if gathering.lines:
            self.adapted.update(gathering.adapted)
            self.taken += len(gathering.lines)
            yield gathering.invoice(id)


class _Gathering:
    """Rows of one invoice while they are read."""

    def __init__(self, number: str, row: int) -> None:
        self.number = number
        self.rows = 0
        self.lines: list[Line] = []
        self.adapted: Counter[str] = Counter()
        self._row = row
        self._is_return = number[0] in "Cc"
        self._reasons: Counter[str] = Counter()
        self._wrong_sign = 0
        self._right_sign = 0
        self._lines = 0
        self._shared: tuple[int, str, str] = (0, "", "")

    def add(self, row: Sequence[str]) -> None:
        """Add the next row."""
        self.rows += 1
        try:
            self._add(row)
        except LeftOut as error:
            self._reasons[str(error)] += 1

    def _add(self, row: Sequence[str]) -> None:
        _, stock_code, description, quantity_text, date, price, customer, country = row
        quantity = _quantity(quantity_text)
        if (quantity < 0) is not self._is_return:
            self._wrong_sign += 1
            return
        self._right_sign += 1
        shared = (_seconds(date), _customer_id(customer), _text(country))
        line = Line(_product_id(stock_code), _text(description), abs(quantity), _nanos(price))
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
            return "adjustment of bad debt (invoice number A...)"
        if self._wrong_sign and not self._right_sign and not self._is_return:
            return "stock correction (only negative quantities, and no return)"
        if self._lines > LINES_MAX:
            return f"invoice of more than {LINES_MAX:,} lines"
        return ""

    def left_out(self) -> Counter[str]:
        """Return the left-out rows by reason."""
        if self._wrong_sign:
            kind = "positive quantity in a return" if self._is_return else "negative quantity in a sale"
            return self._reasons + Counter({kind: self._wrong_sign})
        return self._reasons

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
def _customer_id(customer: str) -> str:
    text = customer.strip()
    number = _WRITTEN_AS_FLOAT.fullmatch(text)
    id = id_of(number[1] if number else text)
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
    try:
        quantity = int(text)
    except ValueError:
        raise LeftOut("quantity that is not a whole number") from None
    if not quantity:
        raise LeftOut("quantity 0")
    if abs(quantity) > QUANTITY_MAX:
        raise LeftOut(f"quantity over {QUANTITY_MAX:,}")
    return quantity


@lru_cache(maxsize=20_000)
def _nanos(text: str) -> int:
    if not text.strip():
        raise LeftOut("no price")
    try:
        price = Decimal(text.strip())
    except InvalidOperation:
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
