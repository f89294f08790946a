"""The freshness proof against a model: a log with restores, a projector with generations, a store, and a feed.

The model knows the content of every read, so each claim of `ProjectionProgress` is compared with the truth.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from diptych.contract.identity_codec import identity_from_message, identity_to_message
from diptych.contract.token import Epoch, LogIdentity
from diptych.internal.v1.feed_pb2 import ProjectionFeed
from query_server.freshness.progress import UNBOUNDED, ProjectionProgress
from query_server.rows.row_source import StoredGeneration
from tests.support.freshness import LOG


class Event(NamedTuple):
    """One event of the log; `number` is unique over all epochs."""

    number: int
    kind: int

    def changes_row(self, version: int) -> bool:
        """Return True if the code of a version changes a row for the event."""
        return (self.kind + version) % 3 != 0


class Snapshot(NamedTuple):
    """State of the store after a commit: its active generation, with the events that its rows hold."""

    generation: int
    version: int
    checkpoint: int
    rows: frozenset[int]
    left_out: frozenset[int]
    identity: LogIdentity


class Generation:
    """One filling of the projection, as its projector has it in memory."""

    def __init__(self, number: int, version: int, identity: LogIdentity) -> None:
        self.number = number
        self.version = version
        self.identity = identity
        self.folded: list[Event] = []
        self.left_out: set[int] = set()
        self.checkpoint = 0
        self.changed = 0

    def snapshot(self) -> Snapshot:
        """Return what a commit now leaves in the store."""
        rows = frozenset(
            event.number
            for position, event in enumerate(self.folded[: self.checkpoint], 1)
            if event.changes_row(self.version) and position not in self.left_out
        )
        left_out = frozenset(position for position in self.left_out if position <= self.checkpoint)
        return Snapshot(self.number, self.version, self.checkpoint, rows, left_out, self.identity)

    def frame(self, *, filling_up: bool) -> ProjectionFeed:
        """Return the frame that the feed would carry now."""
        return ProjectionFeed(
            generation=self.number,
            version=self.version,
            applied_position=len(self.folded),
            changed_position=self.changed,
            left_out_position=max(self.left_out, default=0),
            identity=identity_to_message(self.identity),
            filling_up=filling_up,
        )


class Model:
    """Log, projector, store and feed, with the progress under test. Every step checks the claims."""

    def __init__(self, *, shows_commits: bool) -> None:
        self.progress = ProjectionProgress(1, shows_commits=shows_commits)
        self.shows_commits = shows_commits
        self.identity = LOG
        self.logs: dict[int, list[Event]] = {1: []}
        """The log as it was at the end of each epoch."""
        self.numbers = 0
        self.active = Generation(1, 1, LOG)
        self.filling: Generation | None = None
        self.snapshots = [self.active.snapshot()]
        self.shown = 0
        """The snapshot that the store of the query server shows."""
        self.frames: list[ProjectionFeed] = []
        self.applied_ever = 0
        """Greatest position that a generation which answers reads has applied."""
        self.current_identity: LogIdentity = LOG
        self.progress.absorb_log(LOG)
        self.poll(0)

    @property
    def log(self) -> list[Event]:
        """The log of today."""
        return self.logs[self.identity.epoch]

    def record(self, number: int) -> None:
        """Record an event."""
        self.numbers += 1
        self.log.append(Event(self.numbers, number))

    def restore(self, number: int) -> None:
        """Restore the log to an earlier state: it continues there in a new epoch."""
        kept = self.log[: number % (len(self.log) + 1)]
        epoch = self.identity.epoch + 1
        self.identity = LogIdentity(LOG.log_id, (*self.identity.epochs, Epoch(epoch, len(kept) + 1)))
        self.logs[epoch] = list(kept)

    def hear_head(self, _: int) -> None:
        """The command server reports the log's identity."""
        self._identify(self.identity)

    def _identify(self, identity: LogIdentity) -> None:
        """State a later epoch of the log, as the tracker does before it passes on what carries that epoch."""
        if identity.epoch > self.current_identity.epoch:
            self.current_identity = identity
            self.progress.absorb_log(identity)

    def fold(self, number: int) -> None:
        """Fold events into a generation, and commit if they change a row. One that has diverged folds nothing."""
        generation = self.filling if number % 2 and self.filling is not None else self.active
        begin = len(generation.folded)
        if generation.folded != self.log[:begin]:
            return
        generation.identity = self.identity
        for position, event in enumerate(self.log[begin : begin + 1 + number % 4], begin + 1):
            generation.folded.append(event)
            if event.changes_row(generation.version):
                if number % 5 == 0:
                    generation.left_out.add(position)
                else:
                    generation.changed = position
        if generation is self.active:
            self.applied_ever = max(self.applied_ever, len(generation.folded))
        if generation.changed > generation.checkpoint or generation.left_out:
            self._commit(generation)

    def flush(self, _: int) -> None:
        """Write the checkpoint of the active generation."""
        self._commit(self.active)

    def _commit(self, generation: Generation) -> None:
        generation.checkpoint = len(generation.folded)
        if generation is self.active:
            self.snapshots.append(generation.snapshot())

    def restart(self, _: int) -> None:
        """Restart the projector: what was applied in memory alone is forgotten, and the feed ends."""
        for generation in filter(None, (self.active, self.filling)):
            del generation.folded[generation.checkpoint :]
        self.frames.clear()

    def rebuild(self, number: int) -> None:
        """Begin a generation, of the same code or newer."""
        self.filling = Generation(self.active.number + 1, self.active.version + number % 2, self.identity)

    def switch(self, _: int) -> None:
        """Let the filling generation answer, where that lowers no position of the log of today."""
        filling = self.filling
        if filling is None or filling.folded != self.log[: len(filling.folded)]:
            return
        diverged = self.active.folded != self.log[: len(self.active.folded)]
        if diverged or len(filling.folded) >= len(self.active.folded):
            self.active, self.filling = filling, None
            self.applied_ever = max(self.applied_ever, len(filling.folded))
            self._commit(self.active)

    def replace(self, number: int) -> None:
        """Rebuild from the log of today, and switch."""
        self.rebuild(number)
        assert self.filling is not None
        while len(self.filling.folded) < len(self.log):
            self.fold(1)
        self.switch(0)

    def advance(self, number: int) -> None:
        """Record an event, fold it into the active generation, and deliver every frame."""
        self.record(number)
        self.fold(2 * (number % 4))
        self.send(0)
        while self.frames:
            self.deliver(0)

    def send(self, number: int) -> None:
        """Send a frame about a generation."""
        if number % 2 and self.filling is not None:
            self.frames.append(self.filling.frame(filling_up=True))
        else:
            self.frames.append(self.active.frame(filling_up=False))

    def deliver(self, _: int) -> None:
        """Deliver the oldest frame."""
        if self.frames:
            frame = self.frames.pop(0)
            identity = identity_from_message(frame.identity)
            assert identity is not None
            self._identify(identity)
            self.progress.absorb_feed(frame)

    def lose(self, _: int) -> None:
        """Lose a frame."""
        if self.frames:
            self.frames.pop(0)

    def _look(self, number: int) -> Snapshot:
        """Return what the store shows: the newest state, or on a replica any one not older than the last."""
        newest = len(self.snapshots) - 1
        self.shown = newest if self.shows_commits else min(self.shown + number % 3, newest)
        return self.snapshots[self.shown]

    def poll(self, number: int) -> None:
        """Poll the store."""
        snapshot = self._look(number)
        left_out = max(snapshot.left_out, default=0)
        row = StoredGeneration("p", *snapshot[:3], snapshot.identity, left_out_position=left_out)
        self._identify(snapshot.identity)
        outdated = self.progress.is_outdated(row)
        self.progress.absorb_store(row)
        if not outdated:
            self.progress.absorb_read(snapshot.generation, snapshot.checkpoint)

    def read(self, number: int) -> None:
        """Read rows."""
        snapshot = self._look(number)
        self.progress.absorb_read(snapshot.generation, snapshot.checkpoint)

    # The claims.

    def check(self) -> None:
        """Compare every claim about every state that the store has had with the truth."""
        progress, log = self.progress, self.logs[self.current_identity.epoch]
        assert progress.shown <= progress.applied
        assert progress.shown == progress.applied or not self.shows_commits
        assert progress.applied <= self.applied_ever
        for snapshot in self.snapshots:
            if snapshot.identity.epoch > self.current_identity.epoch:
                continue  # The command server has not reported the epoch that these rows are of.
            included = progress.includes(snapshot.generation, snapshot.checkpoint)
            missing = self._changes(log[:included], snapshot) - snapshot.rows
            assert not missing, f"a read of {snapshot} is said to include {included}"

    def _changes(self, events: list[Event], snapshot: Snapshot) -> set[int]:
        """Return the events that the rows of a generation should hold."""
        left_out = self._left_out(snapshot.generation)
        return {
            event.number
            for position, event in enumerate(events, 1)
            if event.changes_row(snapshot.version) and position not in left_out
        }

    def _left_out(self, number: int) -> set[int]:
        if number == self.active.number:
            return self.active.left_out
        return {position for each in self.snapshots if each.generation == number for position in each.left_out}

    def check_own_event(self, position: int) -> None:
        """Check that an event which is reported as applied is in that generation, and not left out."""
        generation = self.progress.own_event_applied(position)
        if generation:
            assert position not in self._left_out(generation)


STEPS = (
    *("record", "fold", "send", "deliver", "advance", "advance", "advance", "poll", "read"),
    *("restore", "hear_head", "flush", "restart", "rebuild", "switch", "replace", "lose"),
)


ANY_STEPS = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 60)), max_size=60)


def run_model(shows_commits: bool, steps: list[tuple[str, int]]) -> None:
    """Run some steps, and check every claim after each."""
    model = Model(shows_commits=shows_commits)
    for name, number in steps:
        getattr(model, name)(number)
        model.check()
        for position in range(1, len(model.log) + 1):
            model.check_own_event(position)


@settings(deadline=None, max_examples=400)
@given(shows_commits=st.booleans(), steps=ANY_STEPS)
def test_no_read_is_proved_to_include_an_event_that_it_lacks(shows_commits: bool, steps: list[tuple[str, int]]) -> None:
    run_model(shows_commits, steps)


def includes_whatever_changed(progress: ProjectionProgress, generation: int, checkpoint: int) -> int:
    if generation == progress.feed_generation:
        checkpoint = max(checkpoint, progress.feed_applied)
    return min(checkpoint, progress.bound)


def includes_of_any_generation(progress: ProjectionProgress, generation: int, checkpoint: int) -> int:
    if progress.changed <= checkpoint:
        checkpoint = max(checkpoint, progress.feed_applied)
    return min(checkpoint, progress.bound)


def own_event_whatever_is_left_out(progress: ProjectionProgress, position: int) -> int:
    return progress.feed_generation if position <= progress.feed_applied else 0


@pytest.mark.parametrize(
    ("name", "bug"),
    [
        ("includes", includes_whatever_changed),
        ("includes", includes_of_any_generation),
        ("own_event_applied", own_event_whatever_is_left_out),
        ("_bound_for", lambda progress, generation: UNBOUNDED),
        ("_bound_for", lambda progress, generation: progress.bound),
    ],
)
def test_the_model_finds_planted_bugs(monkeypatch: pytest.MonkeyPatch, name: str, bug: object) -> None:
    """A model that finds nothing proves something only if it finds these."""
    monkeypatch.setattr(ProjectionProgress, name, bug)
    search = settings(
        max_examples=5000,
        phases=[Phase.generate],
        derandomize=True,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError):
        search(given(st.booleans(), ANY_STEPS)(run_model))()


@given(
    frames=st.lists(st.integers(0, 60), max_size=8), changes=st.sets(st.integers(1, 60)), checkpoint=st.integers(0, 60)
)
def test_a_read_includes_its_checkpoint_and_no_missing_change(
    frames: list[int], changes: set[int], checkpoint: int
) -> None:
    """Frames of one generation may begin again at any position, as after restarts of the projector."""
    progress = ProjectionProgress(1)
    for applied in frames:
        changed = max((change for change in changes if change <= applied), default=0)
        progress.absorb_feed(
            ProjectionFeed(generation=1, version=1, applied_position=applied, changed_position=changed)
        )

    included = progress.includes(1, checkpoint)

    assert included >= checkpoint
    assert not any(checkpoint < change <= included for change in changes)
    assert progress.includes(2, checkpoint) == checkpoint


def frame(applied: int, changed: int, generation: int = 1, identity: LogIdentity = LOG) -> ProjectionFeed:
    """Return a frame of the feed."""
    return ProjectionFeed(
        generation=generation,
        version=1,
        applied_position=applied,
        changed_position=changed,
        identity=identity_to_message(identity),
    )


def test_bug_a_frame_of_an_earlier_epoch_proved_events_of_the_next() -> None:
    later = LogIdentity(LOG.log_id, (Epoch(1, 1), Epoch(2, 51)))
    progress = ProjectionProgress(1)
    progress.absorb_log(later)
    progress.absorb_read(1, 20)
    progress.absorb_feed(frame(80, 20))  # From a projector that has not followed the restored log yet.
    assert progress.includes(1, 20) == 50
    progress.absorb_feed(frame(60, 60, identity=later))  # It restarted from its checkpoint 20.
    assert progress.includes(1, 20) == 20
    assert progress.includes(1, 60) == 60


def test_bug_a_read_of_a_diverged_generation_was_proved_by_the_next_one() -> None:
    """The read began before a rebuild of the restored log took over, and ended after it."""
    later = LogIdentity(LOG.log_id, (Epoch(1, 1), Epoch(2, 51)))
    progress = ProjectionProgress(1)
    progress.absorb_log(LOG)
    progress.absorb_feed(frame(90, 90))
    progress.absorb_log(later)
    progress.absorb_feed(frame(60, 60, generation=2, identity=later))
    assert progress.includes(1, 90) == 50
    assert progress.includes(2, 60) == 60


def test_plain_reads_include_what_was_shown_and_what_was_acknowledged() -> None:
    progress = ProjectionProgress(1, shows_commits=False)
    progress.absorb_feed(frame(9, 9))
    assert (progress.applied, progress.shown, progress.plain_required) == (9, 0, 0)
    progress.absorb_read(1, 4)
    assert (progress.applied, progress.shown, progress.plain_required) == (9, 4, 4)
    progress.acknowledge(7)
    progress.absorb_read(1, 5)
    assert (progress.applied, progress.shown, progress.plain_required) == (9, 5, 7)
    progress.absorb_store_replaced()
    assert (progress.applied, progress.shown, progress.plain_required) == (0, 0, 0)


def test_shown_equals_applied_when_the_store_shows_every_commit() -> None:
    progress = ProjectionProgress(1)
    progress.absorb_feed(frame(9, 9))
    assert (progress.applied, progress.shown, progress.plain_required) == (9, 9, 9)
