"""Statements that read views, compiled once for every shape of a query.

Each reads the checkpoint of its generation as well, and returns nothing if that generation is no longer active. Each
returns *one* result row, into which SQLite packs the rows of the view. A connection releases the interpreter at each
step, and under load takes up to a millisecond to get it back. With a step for each row, each row would cost that.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Table,
    and_,
    bindparam,
    false,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)

from diptych.domain.projection import View
from diptych.domain.query import Condition, Find, Order
from diptych.domain.values import stored
from diptych.storage.read_store_schema import generations, view_table
from diptych.storage.sql import Compiled, compile_sqlite

STATEMENTS_MAX = 1000
"""Finds in memory; the oldest is dropped first."""

_ESCAPE = "\\"
_GREATEST = "\U0010ffff"


class KeyStatements(NamedTuple):
    """Statements that read rows by key: one, or many by a JSON array."""

    one: Compiled
    many: Compiled


class FindShape(NamedTuple):
    """Everything that the text of a find depends on."""

    view: str
    generation: int
    conditions: tuple[tuple[str, str, int], ...]
    order: tuple[tuple[str, bool], ...]
    after: bool
    total: bool


class Statements:
    """Compiled statements of one row reader. Its threads share them."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, int], KeyStatements] = {}
        self._finds: OrderedDict[FindShape, Compiled] = OrderedDict()
        self._tables: dict[tuple[str, int], Table] = {}

    def by_key(self, view: View[Any], generation: int) -> KeyStatements:
        """Return the statements that read rows of a view by key.

        Parameters: `key` or `keys` (a JSON array), `projection`, `generation`.
        """
        compiled = self._keys.get((view.name, generation))
        if compiled is None:
            compiled = self._keys[view.name, generation] = _by_key(self._table(view, generation))
        return compiled

    def find(self, view: View[Any], generation: int, find: Find, *, after: bool, total: bool) -> Compiled:
        """Return the statement that reads a page of rows.

        Parameters: those of `find_values`, `projection`, `generation`.
        """
        shape = FindShape(
            view.name,
            generation,
            tuple((c.column.name, c.operator, _count(c)) for c in find.conditions),
            tuple((order.column.name, order.descending) for order in find.order),
            after,
            total,
        )
        compiled = self._finds.get(shape)
        if compiled is None:
            compiled = _find(self._table(view, generation), find, after=after, total=total)
            self._finds[shape] = compiled
            while len(self._finds) > STATEMENTS_MAX:
                self._finds.popitem(last=False)
        return compiled

    def drop(self, view_names: Sequence[str], generation: int) -> None:
        """Drop the statements on a generation of these views."""
        for name in view_names:
            self._keys.pop((name, generation), None)
            self._tables.pop((name, generation), None)
        for shape in [s for s in list(self._finds) if s.generation == generation and s.view in view_names]:
            self._finds.pop(shape, None)

    def _table(self, view: View[Any], generation: int) -> Table:
        table = self._tables.get((view.name, generation))
        if table is None:
            table = self._tables[view.name, generation] = view_table(view, generation)
        return table


def find_values(find: Find, after: Sequence[Any] | None, limit: int) -> dict[str, Any]:
    """Return the parameters of a find. `after` holds the order's values and the key of the row before the page."""
    values: dict[str, Any] = {"limit": limit}
    for index, condition in enumerate(find.conditions):
        values.update(_values(f"c{index}", condition))
    for index, value in enumerate(after or ()):
        values[f"a{index}"] = value
    return values


def _active() -> ColumnElement[bool]:
    return and_(
        generations.c.projection == bindparam("projection"),
        generations.c.generation == bindparam("generation"),
        generations.c.active,
    )


def _by_key(table: Table) -> KeyStatements:
    one = select(table.c.row).where(table.c.key == bindparam("key")).scalar_subquery()
    keys = func.json_each(bindparam("keys")).table_valued("key", "value", name="requested")
    packed = keys.c.key.op("||")(literal_column("' '")).op("||")(func.hex(table.c.row))
    many = (
        select(func.group_concat(packed, literal_column("','")))
        .select_from(keys.join(table, table.c.key == keys.c.value))
        .where(table.c.row.is_not(None))
        .scalar_subquery()
    )
    return KeyStatements(
        compile_sqlite(select(generations.c.position, one).where(_active())),
        compile_sqlite(select(generations.c.position, many).where(_active())),
    )


def unpack_keyed(packed: str | None) -> dict[int, bytes]:
    """Unpack the rows of `KeyStatements.many`, by the index of their key in the request."""
    rows: dict[int, bytes] = {}
    for item in packed.split(",") if packed else ():
        index, _, row = item.partition(" ")
        rows[int(index)] = bytes.fromhex(row)
    return rows


def _find(table: Table, find: Find, *, after: bool, total: bool) -> Compiled:
    matching = and_(
        table.c.row.is_not(None),
        *(_condition(table, f"c{index}", condition) for index, condition in enumerate(find.conditions)),
    )
    order = key_order(find.order)
    page = select(table.c.key, table.c.row).where(matching)
    if after:
        page = page.where(_after(table, order))
    columns = [(table.c[name], descending) for name, descending in order]
    rows = (
        page.order_by(*(column.desc() if descending else column for column, descending in columns))
        .limit(bindparam("limit", type_=Integer))
        .subquery("page")
    )
    packed = select(
        func.group_concat(func.hex(rows.c.row), literal_column("' '")).label("packed_rows"),
        func.json_group_array(rows.c.key).label("packed_keys"),
    ).subquery("packed")
    count: ColumnElement[Any] = literal_column("NULL")
    if total:
        count = select(func.count()).select_from(table).where(matching).scalar_subquery()
    return compile_sqlite(
        select(generations.c.position, packed.c.packed_rows, packed.c.packed_keys, count.label("total"))
        .select_from(generations.join(packed, true()))
        .where(_active())
    )


def unpack_page(rows: str | None, keys: str) -> tuple[list[bytes], list[str]]:
    """Unpack the rows and keys of a find."""
    if rows is None:
        return [], []
    return [bytes.fromhex(row) for row in rows.split(" ")], json.loads(keys)


def key_order(order: Sequence[Order]) -> list[tuple[str, bool]]:
    """Return the column names and directions of an order, ended by the key.

    The key takes the direction of the column before it, so that one index serves an order and its reverse.
    """
    return [*((item.column.name, item.descending) for item in order), ("key", bool(order) and order[-1].descending)]


def _after(table: Table, order: Sequence[tuple[str, bool]]) -> ColumnElement[bool]:
    """Return the condition for rows after a row with the values `a0`, `a1`, ... in an order."""
    pairs: list[tuple[ColumnElement[Any], BindParameter[Any]]] = [
        (table.c[name], bindparam(f"a{index}")) for index, (name, _) in enumerate(order)
    ]
    if len({descending for _, descending in order}) == 1:
        left, right = tuple_(*(column for column, _ in pairs)), tuple_(*(value for _, value in pairs))
        return left < right if order[0][1] else left > right
    # Directions are mixed, which no comparison of tuples expresses. The first column has a condition of its own, which
    # an index serves.
    steps: list[ColumnElement[bool]] = []
    for index, (_, descending) in enumerate(order):
        column, value = pairs[index]
        equal = [before == its for before, its in pairs[:index]]
        steps.append(and_(*equal, column < value if descending else column > value))
    column, value = pairs[0]
    return and_(column <= value if order[0][1] else column >= value, or_(*steps))


def _condition(table: Table, name: str, condition: Condition) -> ColumnElement[bool]:
    column = table.c[condition.column.name]
    value: BindParameter[Any] = bindparam(name)
    match condition.operator:
        case "=":
            return column == value
        case "!=":
            return column != value
        case "<":
            return column < value
        case "<=":
            return column <= value
        case ">":
            return column > value
        case ">=":
            return column >= value
        case "in" if condition.column.kind is float:  # JSON would go through SQLite's own reading of decimals.
            return or_(false(), *(column == bindparam(f"{name}_{index}") for index in range(_count(condition))))
        case "in":
            listed = func.json_each(value).table_valued("value", name=f"{name}_list")
            return column.in_(select(listed.c.value))
        case "contains":
            return column.like(value, escape=_ESCAPE)
        case "prefix":
            # A range rather than LIKE: it is case-sensitive, and an index serves it.
            return and_(column >= value, column < bindparam(f"{name}_end"))


def _count(condition: Condition) -> int:
    return len(condition.value) if condition.operator == "in" and condition.column.kind is float else 0


def _values(name: str, condition: Condition) -> dict[str, Any]:
    value = condition.value
    match condition.operator:
        case "in" if condition.column.kind is float:
            return {f"{name}_{index}": item for index, item in enumerate(value)}
        case "in":
            return {name: json.dumps([stored(item) for item in value])}
        case "contains":
            for special in (_ESCAPE, "%", "_"):
                value = value.replace(special, _ESCAPE + special)
            return {name: f"%{value}%"}
        case "prefix":
            return {name: value, f"{name}_end": _end_of_prefix(value)}
        case _:
            return {name: stored(value)}


def _end_of_prefix(prefix: str) -> str | bytes:
    """Return the least value above all texts that begin with a prefix. A blob is above every text."""
    rest = prefix.rstrip(_GREATEST)
    if not rest:
        return b""
    following = ord(rest[-1]) + 1
    if 0xD800 <= following <= 0xDFFF:  # Surrogates are no characters.
        following = 0xE000
    return rest[:-1] + chr(following)
