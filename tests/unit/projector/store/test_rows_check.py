"""The check of rows against a fold: what a tombstone may lack, what is left out, and what does not depend on pages."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from diptych.domain.memory_rows import MemoryRows
from diptych.storage.findings import Findings
from diptych.storage.read_store_schema import view_table
from diptych.v1.events_pb2 import RecordedEvent
from projector.store.rows_check import RowsCheck
from tests.support.notes import Erased, Noted, Notes, Tagged, log_of
from tests.support.read_store_file import StoreFile

NOTES = Notes(columns=False)
LOG = log_of(
    [
        Noted(key="a", text="one"),
        Noted(key="b", text="two"),
        Tagged(key="a", tags=["x", "y"]),
        Erased(key="a"),
        Noted(key="b", text="three"),
        Tagged(key="b", tags=["x"]),
        Tagged(key="b", tags=["x"]),
    ]
)
"""In the end note a and tag x are deleted, at 4 and 7."""


class Checked:
    """A read store that was filled from a log, and what a check of it finds."""

    def __init__(self, path: Path, log: Sequence[RecordedEvent]) -> None:
        self.log = log
        self.page = 2
        StoreFile(path, [NOTES.projection]).close()
        self._store = sqlite3.connect(path, isolation_level=None)
        self.path = path
        rows = MemoryRows(NOTES.projection)
        rows.apply(log)
        for view in NOTES.projection.views:
            for row in rows.rows[view.name].values():
                self.run(f"INSERT INTO {view_table(view, 1).name} VALUES (?, ?, ?)", *row)
        self.run("UPDATE diptych_generations SET position = ?", len(log))

    def close(self) -> None:
        self._store.close()

    def run(self, statement: str, *values: object) -> None:
        self._store.execute(statement, values)

    def pages(self, until: int, types: Iterable[str]) -> Iterator[tuple[int, Sequence[RecordedEvent]]]:
        wanted = set(types)
        for start in range(0, until, self.page):
            end = min(start + self.page, until)
            yield end, [event for event in self.log[start:end] if event.event.TypeName() in wanted]

    async def differences(self) -> dict[str, list[str]]:
        return (await self.findings()).differences

    async def findings(self) -> Findings:
        findings = Findings()
        async with RowsCheck(self.path, findings) as check:
            filled = await check.generation(NOTES.projection)
            assert filled is not None, findings.unchecked
            await check.check(NOTES.projection, filled, self.pages, lambda done, total: None)
        return findings


@pytest.fixture
def checked(tmp_path: Path) -> Iterator[Checked]:
    made = Checked(tmp_path / "read.db", LOG)
    yield made
    made.close()


async def test_check_does_not_depend_on_pages(checked: Checked) -> None:
    for checked.page in (1, 2, 3, 100):
        assert await checked.differences() == {}
    checked.run("UPDATE diptych_generations SET position = 6")
    assert list(await checked.differences()) == ["ROW_MISSING"], "tag x is deleted too early"


async def test_tombstone_below_the_floor_may_be_missing(checked: Checked) -> None:
    checked.run("DELETE FROM notes_g1 WHERE key = 'a'")
    checked.run("DELETE FROM notes_tags_g1 WHERE key = 'x'")
    checked.run("UPDATE diptych_generations SET tombstone_floor = 4")
    assert await checked.differences() == {
        "TOMBSTONE_MISSING": ["Row x of view notes_tags was deleted at position 7, and its tombstone is missing."]
    }
    checked.run("UPDATE diptych_generations SET tombstone_floor = 7")
    assert await checked.differences() == {}
    checked.run("UPDATE diptych_generations SET tombstone_floor = 0")
    assert len((await checked.differences())["TOMBSTONE_MISSING"]) == 2


async def test_check_reports_a_deleted_row_that_exists_and_a_tombstone_without_a_row(checked: Checked) -> None:
    checked.run("UPDATE notes_g1 SET row = x'' WHERE key = 'a'")
    checked.run("INSERT INTO notes_g1 VALUES ('z', 1, NULL)")
    told = (await checked.differences())["ROW_EXTRA"]
    assert [sentence.split(",")[0] for sentence in told] == [
        "Row a of view notes is there",
        "Row z of view notes is there",
    ]


async def test_check_reports_an_event_that_fails_unless_it_is_listed_as_parked(tmp_path: Path) -> None:
    log = [*LOG, *log_of([*[Noted(key="", text="")] * 7, Noted(key="c", text="poison")])[7:]]
    made = Checked(tmp_path / "read.db", log)
    try:
        # As it is with an event that was left out.
        (told,) = (await made.differences())["FOLD_FAILED"]
        assert "Event 8 (notes.v1.Noted of note/1) failed" in told
        made.run("INSERT INTO diptych_parked_events VALUES ('notes', 1, 8, 8)")
        findings = await made.findings()
        assert findings.differences == {}
        assert findings.checked[0].endswith(
            "; 1 event is left out, which `diptych parked list notes --discarded` lists"
        )
    finally:
        made.close()


async def test_inactive_generation_is_not_checked(checked: Checked) -> None:
    checked.run("UPDATE diptych_generations SET active = 0")
    findings = Findings()
    async with RowsCheck(checked.path, findings) as check:
        assert await check.generation(NOTES.projection) is None
    assert findings.unchecked == ["Projection notes has not been filled."]
