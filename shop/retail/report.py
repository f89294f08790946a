"""Report of an import, as text of fixed width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple

from shop.retail.importer import Imported
from shop.retail.sums import Figures, Sums

_AMOUNTS = ("gross", "returned", "net")
_COUNTS = ("orders", "units")
_NOTHING = Figures()


class Comparison(NamedTuple):
    """Sums of the file beside those of the read model."""

    file: Sums
    read: Sums

    @property
    def agrees(self) -> bool:
        """Return True if the sums are equal."""
        return self.file == self.read


def row_lines(imported: Imported) -> Iterator[str]:
    """Yield lines about the rows."""
    reader = imported.reader
    yield f"Rows read      {reader.rows:>12,}"
    yield f"  taken        {reader.taken:>12,}"
    yield f"  left out     {sum(reader.left_out.values()):>12,}"
    for reason, count in reader.left_out.most_common():
        yield f"    {count:>23,}  {reason}"
        yield f"{'':29}first in {reader.first_left_out[reason]}"
    for what, count in sorted(reader.adapted.items()):
        yield f"  {count:,} of the rows taken have another {what} than the first of their invoice, which was recorded."


def command_lines(imported: Imported) -> Iterator[str]:
    """Yield lines about the commands."""
    tally = imported.tally
    yield f"Commands       {_all_commands(imported):>12,}"
    yield f"  accepted     {sum(tally.accepted.values()):>12,}"
    for kind, count in sorted(tally.accepted.items()):
        yield f"    {count:>23,}  {kind}"
    yield f"  duplicates   {tally.duplicates:>12,}  (accepted in an earlier run; nothing was doubled)"
    for kind, count in sorted(tally.there_already.items()):
        yield f"  there already{count:>12,}  {kind}: what others had created, as it is"
    yield f"  refused      {tally.refusals:>12,}"
    for (kind, reason), refused in sorted(tally.refused.items()):
        yield f"    {refused.commands:>23,}  {kind} {reason}"
        yield from (f"{'':29}{example}" for example in refused.examples)


def sum_lines(comparison: Comparison) -> Iterator[str]:
    """Yield lines with both sums of each day, of each country, and of all."""
    file, read = comparison
    width = max(len(key) for key in (*file.days, *read.days, *file.countries, *read.countries, "without a country"))
    yield f"{'GBP':{width}}  {'summed from the file':>38}  {'queried from the read model':>38}"
    yield f"{'':{width}}{_amounts(_AMOUNTS)}{_amounts(_AMOUNTS)}  {'orders':>7}  {'units':>9}"
    yield "per day"
    yield from _lines(width, file.days, read.days)
    yield "per country"
    yield from _lines(width, file.countries, read.countries)
    yield from _lines(width, {"whole": file.whole}, {"whole": read.whole})


def _all_commands(imported: Imported) -> int:
    tally = imported.tally
    return sum(tally.accepted.values()) + tally.duplicates + sum(tally.there_already.values()) + tally.refusals


def _lines(width: int, file: Mapping[str, Figures], read: Mapping[str, Figures]) -> Iterator[str]:
    for key in sorted({*file, *read}):
        ours, theirs = file.get(key, _NOTHING), read.get(key, _NOTHING)
        counts = "".join(
            f"  {_count(getattr(ours, name), getattr(theirs, name)):>{size}}"
            for name, size in zip(_COUNTS, (7, 9), strict=True)
        )
        agrees = "" if ours == theirs else "  DIFFERS"
        yield f"{key or 'without a country':{width}}{_sums(ours)}{_sums(theirs)}{counts}{agrees}"


def _sums(figures: Figures) -> str:
    return _amounts(tuple(pounds(getattr(figures, name)) for name in _AMOUNTS))


def _amounts(texts: tuple[str, ...]) -> str:
    return "  " + " ".join(f"{text:>12}" for text in texts)


def _count(file: int, read: int) -> str:
    return f"{file:,}" if file == read else f"{file:,}/{read:,}"


def pounds(nanos: int) -> str:
    """Return an exact amount with at least two decimals."""
    exact = Decimal(nanos).scaleb(-9)
    text = f"{exact:,.9f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals:0<2}"
