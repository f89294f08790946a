"""The reader of rows, on real files."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych import Find, Projection
from diptych.contract.reasons import Overloaded, ReadModelNotReady
from diptych.contract.token import LogIdentity
from diptych.domain.query import Column, Condition, Order
from diptych.domain.values import stored
from diptych.storage import batch_window
from query_server.rows.reader_threads import READS_MAX
from query_server.rows.row_reader import RowReader
from query_server.rows.row_source import PageRead
from tests.support.read_store_file import StoreFile

_START = datetime(2026, 1, 1, tzinfo=UTC)

things = Projection("things", version=1)
rows = things.view("things", Struct)


def _field(row: Struct, name: str, default: Any) -> Any:
    return row[name] if name in row.fields else default


text = rows.column("text", lambda row: str(_field(row, "text", "")))
number = rows.column("number", lambda row: int(_field(row, "number", 0)))
real = rows.column("real", lambda row: float(_field(row, "real", 0.0)))
flag = rows.column("flag", lambda row: bool(_field(row, "flag", False)))
moment = rows.column("moment", lambda row: _START + timedelta(microseconds=_field(row, "moment", 0)))
search = rows.text("search", lambda row: str(_field(row, "text", "")))
COLUMNS: list[Column[Any]] = [text, number, real, flag, moment]


def struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreFile]:
    made = StoreFile(tmp_path / "read.db", [things], LogIdentity.new())
    yield made
    made.close()


@pytest.fixture
async def reader(store: StoreFile) -> AsyncIterator[RowReader]:
    made = RowReader(store.path, [things])
    yield made
    await made.close()


def write(store: StoreFile, written: Mapping[str, Message | None], position: int = 1, generation: int = 1) -> None:
    store.write(rows, written, position, generation=generation)


async def test_keys_that_come_together_are_read_together(store: StoreFile, reader: RowReader) -> None:
    written = {f"k{i}": struct(number=i) for i in range(200)}
    write(store, {**written, "gone": None}, 42)

    keys = [*written, "gone", "never", "k7", "", "'\"\\", "k\0", "é☃𝄞"]
    found = await asyncio.gather(*(reader.get(rows, key) for key in keys))

    assert {(read.generation, read.position) for read in found} == {(1, 42)}
    for key, read in zip(keys, found, strict=True):
        expected = written.get(key)
        assert read.row == (expected and expected.SerializeToString(deterministic=True))
    assert reader.selects == 1
    assert reader.keys_read == len(keys) - 1


async def test_a_select_waits_for_as_many_as_were_answered_and_who_reads_alone_never_waits(
    store: StoreFile, reader: RowReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_window, "_CALL_SECONDS", 1000)  # So that only reads end a wait, and no clock does.
    write(store, {"a": struct(number=1)})
    for _ in range(3):
        await reader.get(rows, "a")
    assert (reader.selects, reader.keys_read) == (3, 3)

    await asyncio.gather(*(reader.get(rows, "a") for _ in range(8)))
    again = []
    for _ in range(8):
        again.append(reader.get(rows, "a"))
        await asyncio.sleep(0)
    await asyncio.gather(*again)
    assert (reader.selects, reader.keys_read) == (5, 19)


async def test_a_select_does_not_wait_for_long(store: StoreFile, reader: RowReader) -> None:
    write(store, {"a": struct(number=1)})
    await asyncio.gather(*(reader.get(rows, "a") for _ in range(8)))
    assert (await asyncio.wait_for(reader.get(rows, "a"), 10)).row is not None


async def test_bug_who_reads_quickly_waited_in_every_select_for_slow_ones(
    store: StoreFile, reader: RowReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_window, "_CALL_SECONDS", 0.05)
    write(store, {"a": struct(number=1)})
    began = asyncio.get_running_loop().time()
    for _ in range(200):  # Two others read once, and do other things.
        slow = [reader.get(rows, "a") for _ in range(2)]
        await reader.get(rows, "a")
        await asyncio.gather(*slow)
        await reader.get(rows, "a")
    assert asyncio.get_running_loop().time() - began < 15, "with a wait of 0.15 s in each turn it would take 30 s"


async def test_keys_of_any_text_are_told_apart(store: StoreFile, reader: RowReader) -> None:
    keys = ["", " ", "a", "A", "a,b", "1 2", "[", '"', "\\u0041", "é", "e\u0301", "☃𝄞", "a\nb", "\x7f"]
    write(store, {key: struct(text=key) for key in keys})

    for chosen in (keys, keys[:1]):
        found = await asyncio.gather(*(reader.get(rows, key) for key in chosen))
        assert [Struct.FromString(read.row or b"")["text"] for read in found] == chosen


async def test_an_empty_row_is_a_row(store: StoreFile, reader: RowReader) -> None:
    write(store, {"a": Struct(), "b": Struct(), "c": None})

    found = await asyncio.gather(*(reader.get(rows, key) for key in "abc"))
    assert [read.row for read in found] == [b"", b"", None]
    assert (await reader.get(rows, "a")).row == b""
    assert (await reader.find(rows, Find(), limit=9)).rows == [b"", b""]
    assert (await reader.find(rows, Find(), limit=1)).rows == [b""]


async def test_a_cancelled_read_harms_no_other(store: StoreFile, reader: RowReader) -> None:
    write(store, {"a": struct(number=1)})
    reads = [reader.get(rows, "a") for _ in range(20)]
    for read in reads[::2]:
        read.cancel()

    assert {(await read).position for read in reads[1::2]} == {1}
    only = reader.get(rows, "a")
    only.cancel()
    assert (await reader.get(rows, "a")).position == 1


async def test_reads_that_wait_are_bounded(store: StoreFile, reader: RowReader) -> None:
    write(store, {"a": struct(number=1)})
    reads = [reader.get(rows, "a") for _ in range(READS_MAX)]
    with pytest.raises(Overloaded):
        reader.get(rows, "a")

    assert {read.position for read in await asyncio.gather(*reads)} == {1}
    assert (await reader.get(rows, "a")).position == 1


async def test_rows_and_checkpoint_are_of_one_moment(store: StoreFile, reader: RowReader) -> None:
    """Every write changes the row and moves the checkpoint; no read sees one without the other."""
    write(store, {"a": struct(number=1)}, 1)

    async def writer() -> None:
        for position in range(2, 60):
            await asyncio.to_thread(write, store, {"a": struct(number=position)}, position)

    writing = asyncio.create_task(writer())
    seen = set()
    while not writing.done():
        got = await reader.get(rows, "a")
        page = await reader.find(rows, Find(), limit=1)
        for row, position in ((got.row, got.position), (page.rows[0], page.position)):
            assert Struct.FromString(row or b"")["number"] == position
            seen.add(position)
    await writing
    assert len(seen) > 1


async def test_no_store_then_a_store_then_another(tmp_path: Path) -> None:
    path = tmp_path / "read.db"
    reader = RowReader(path, [things])
    with pytest.raises(ReadModelNotReady):
        await reader.get(rows, "a")
    with pytest.raises(ReadModelNotReady):
        await reader.find(rows, Find(), limit=1)
    assert await reader.generations() == []
    assert files_in(tmp_path) == []

    for value in (1, 2):
        store = StoreFile(path, [things], LogIdentity.new())
        write(store, {"a": struct(number=value)}, value)
        assert [stored.position for stored in await reader.generations()] == [value]
        assert (await reader.get(rows, "a")).position == value
        assert (await reader.find(rows, Find(), limit=1)).position == value
        store.close()
        for left in files_in(tmp_path):
            left.unlink()
        assert await reader.generations() == []
        with pytest.raises(ReadModelNotReady):
            await reader.get(rows, "a")
    await reader.close()


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "read.db"
    path.write_bytes(b"This is no database. " * 1000)
    reader = RowReader(path, [things])
    assert await reader.generations() == []
    with pytest.raises(ReadModelNotReady):
        await reader.get(rows, "a")
    await reader.close()


async def test_a_generation_of_another_shape_is_not_read(store: StoreFile, reader: RowReader) -> None:
    store.run("UPDATE diptych_generations SET shape = 'other'")

    with pytest.raises(ReadModelNotReady):
        await reader.get(rows, "a")
    assert await reader.generations() == []


async def test_a_switch_between_two_reads(store: StoreFile, reader: RowReader) -> None:
    write(store, {"a": struct(number=1)}, 5)
    assert (await reader.get(rows, "a")).generation == 1
    assert (await reader.find(rows, Find(number.eq(1)), limit=5)).generation == 1
    for generation in (2, 3, 4):
        store.begin(things, generation, active=False)
        write(store, {"a": struct(number=generation)}, 5, generation)
        store.switch(things, generation, drop=generation - 1)

        got, page = await asyncio.gather(reader.get(rows, "a"), reader.find(rows, Find(number.eq(generation)), limit=5))
        assert (got.generation, page.generation, len(page.rows)) == (generation, generation, 1)


async def test_statements_are_forgotten_when_their_generation_is_dropped(store: StoreFile, reader: RowReader) -> None:
    await reader.find(rows, Find(number.eq(1)), limit=5)
    store.begin(things, 2, active=False)
    store.switch(things, 2, drop=1)
    assert {shape.generation for shape in reader._statements._finds} == {1}
    await reader.generations()
    assert reader._statements._finds == {}


async def test_reads_use_the_indexes(store: StoreFile, reader: RowReader) -> None:
    """A select by key, a page in order and the page after it must not scan."""
    import sqlite3

    finds = (
        (Find(order=number), False),
        (Find(order=number), True),
        (Find(order=number.descending()), True),
        (Find(text.eq("x")), False),
        (Find(text.starts_with("x"), order=text), True),
        (Find(), True),
    )
    connection = sqlite3.connect(store.path)
    by_key = reader._statements.by_key(rows, 1)
    statements = [by_key.one, by_key.many]
    statements += [reader._statements.find(rows, 1, find, after=after, total=False) for find, after in finds]
    for statement in statements:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement.sql}", ["[]"] * len(statement.names)).fetchall()
        told = [str(step[3]) for step in plan]
        assert not any("TEMP B-TREE" in step for step in told), told
        assert not any(step == "SCAN things_g1" for step in told), told
    connection.close()


# Filters.


def matches(condition: Condition, row: Struct) -> bool:
    """A condition in Python."""
    value, wanted = condition.column.value(row), condition.value
    match condition.operator:
        case "in":
            return value in wanted
        case "contains":
            return wanted in value
        case "prefix":
            return bool(value.startswith(wanted))
        case "=":
            return bool(value == wanted)
        case "!=":
            return bool(value != wanted)
        case "<":
            return bool(value < wanted)
        case "<=":
            return bool(value <= wanted)
        case ">":
            return bool(value > wanted)
        case ">=":
            return bool(value >= wanted)


texts = st.text(alphabet="aAbBßÉé%_\\*'\" ☃𝄞\U0010ffff\ud7ff\ue000", max_size=4)
structs = st.builds(
    struct,
    text=texts,
    number=st.integers(-3, 3),
    real=st.sampled_from([0.0, 0.1, -1e300, 1 / 3, 5e-324]),
    flag=st.booleans(),
    moment=st.integers(-2, 2),
)
tables = st.dictionaries(st.text(alphabet="ab☃\U0010ffff", max_size=3), structs, max_size=12)


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    column: Column[Any] = draw(st.sampled_from(COLUMNS))
    value = column.value(draw(structs))
    kind = draw(st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "among", "contains", "starts_with"]))
    if kind == "contains":
        return search.contains(draw(texts))
    if kind == "starts_with":
        return text.starts_with(draw(texts))
    if kind == "among":
        return column.among([value, *(column.value(row) for row in draw(st.lists(structs, max_size=2)))])
    compared: Condition = getattr(column, kind)(value)
    return compared


@st.composite
def orders(draw: st.DrawFn) -> list[Order]:
    columns = draw(st.lists(st.sampled_from(COLUMNS), unique=True, max_size=3))
    return [Order(column, draw(st.booleans())) for column in columns]


def in_order(table: Mapping[str, Struct], order: Sequence[Order]) -> list[str]:
    """The keys of a table in an order, by Python's own sort."""
    keys = sorted(table, reverse=bool(order) and order[-1].descending)
    for item in reversed(order):
        # Sorting in reverse keeps equals in place, too.
        keys.sort(key=lambda key: item.column.value(table[key]), reverse=item.descending)
    return keys


def after(table: Mapping[str, Struct], order: Sequence[Order], page: PageRead, size: int) -> list[Any]:
    key = page.keys[size - 1]
    return [*(stored(item.column.value(table[key])) for item in order), key]


slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_numbers = itertools.count()


@slow
@given(table=tables, where=st.lists(conditions(), max_size=3), order=orders(), size=st.integers(1, 4))
async def test_pages_are_what_python_would_sort(
    tmp_path: Path, table: dict[str, Struct], where: list[Condition], order: list[Order], size: int
) -> None:
    store = StoreFile(tmp_path / f"read{next(_numbers)}.db", [things])
    write(store, {**table, "deleted": None})
    reader = RowReader(store.path, [things], readers=1)
    expected = in_order({k: row for k, row in table.items() if all(matches(c, row) for c in where)}, order)
    find, found = Find(*where, order=order), []
    start: list[Any] | None = None
    while True:
        page = await reader.find(rows, find, limit=size + 1, after=start, total=True)
        assert page.total == len(expected)
        found += page.keys[:size]
        assert page.rows == [table[key].SerializeToString(deterministic=True) for key in page.keys]
        if len(page.rows) <= size:
            break
        start = after(table, order, page, size)
    await reader.close()
    store.close()

    assert found == expected


@slow
@given(
    table=tables,
    order=orders(),
    size=st.integers(1, 3),
    changes=st.lists(st.tuples(st.text(alphabet="cd", min_size=1, max_size=2), st.none() | structs), max_size=12),
)
async def test_what_stays_is_neither_missed_nor_repeated(
    tmp_path: Path,
    table: dict[str, Struct],
    order: list[Order],
    size: int,
    changes: list[tuple[str, Struct | None]],
) -> None:
    """Other rows come, change and go between pages."""
    store = StoreFile(tmp_path / f"read{next(_numbers)}.db", [things])
    write(store, table)
    reader = RowReader(store.path, [things], readers=1)
    now: dict[str, Struct] = dict(table)
    found: list[str] = []
    start: list[Any] | None = None
    position = 1
    while True:
        page = await reader.find(rows, Find(order=order), limit=size + 1, after=start)
        found += page.keys[:size]
        if len(page.rows) <= size:
            break
        start = after(now, order, page, size)
        for key, row in (changes.pop() for _ in range(min(2, len(changes)))):
            position += 1
            write(store, {key: row}, position)
            if row is None:
                now.pop(key, None)
            else:
                now[key] = row
    await reader.close()
    store.close()

    assert [key for key in found if key in table] == in_order(table, order)


async def test_a_page_of_another_view_type(tmp_path: Path) -> None:
    """Rows pass through whatever their type is."""
    words = Projection("words", version=1)
    view = words.view("words", StringValue)
    store = StoreFile(tmp_path / "read.db", [words])
    store.write(view, {"a": StringValue(value="x" * 100_000)}, 3)
    reader = RowReader(store.path, [words])

    assert (await reader.get(view, "a")).row == StringValue(value="x" * 100_000).SerializeToString()
    await reader.close()
    store.close()


async def test_bug_page_had_no_limit_in_bytes(store: StoreFile, reader: RowReader) -> None:
    """One page of these rows was one value of 50 MB; of larger ones, beyond SQLite's limit and refused as not ready."""
    write(store, {f"k{n:02}": struct(text="x" * 500_000) for n in range(50)})
    found: list[str] = []
    while True:
        page = await reader.find(rows, Find(), limit=51, after=found[-1:] or None, total=True)
        assert sum(map(len, page.rows)) <= 1 << 20
        assert page.total == 50
        found += page.keys
        if not page.cut:
            break
    assert found == [f"k{n:02}" for n in range(50)]


async def test_row_larger_than_a_page_is_read_alone(store: StoreFile, reader: RowReader) -> None:
    written = {"a": struct(number=1), "b": struct(text="x" * 20_000_000), "c": struct(number=3)}
    write(store, written)
    pages = [await reader.find(rows, Find(), limit=10, after=after) for after in (None, ["a"], ["b"])]
    assert [(page.keys, page.cut) for page in pages] == [(["a"], True), (["b"], True), (["c"], False)]


async def test_bug_keys_of_large_rows_were_read_as_one_value(store: StoreFile, reader: RowReader) -> None:
    written = {f"k{n}": struct(text=str(n) * 3_000_000) for n in range(7)}
    write(store, written)
    found = await asyncio.gather(*(reader.get(rows, key) for key in [*written, "never"]))
    expected = [row.SerializeToString(deterministic=True) for row in written.values()]
    assert [read.row for read in found] == [*expected, None]


@pytest.mark.parametrize("readers", [1, 2])
async def test_bug_poll_and_event_stood_in_the_queue_of_lists(store: StoreFile, readers: int) -> None:
    write(store, {"a": struct(number=1)})
    reader = RowReader(store.path, [things], readers)
    release = threading.Event()
    lists = [asyncio.ensure_future(reader.run(release.wait)) for _ in range(5)]
    async with asyncio.timeout(10):
        await asyncio.sleep(0)
        assert len(await reader.generations()) == 1
        assert (await reader.event("things", 1)).error is None
    assert not any(one.done() for one in lists)
    release.set()
    await asyncio.gather(*lists)
    await reader.close()
