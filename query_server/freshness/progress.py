"""The freshness proof: the log position that a read of a projection's rows is proved to include.

Claim
    `includes(generation, checkpoint)` returns a position P. The rows of that generation, read when its checkpoint
    was `checkpoint`, hold every row change of the events 1..P of the log, and no event of P or below is missing
    except those that the projection lists as left out. P is never below `min(checkpoint, bound)`.

Inputs
    1. The store: (generation, checkpoint). Rows and checkpoint commit together, so rows read at checkpoint C
       include the events 1..C.
    2. The feed: (generation, applied A, changed R), with R <= A. The projector has applied 1..A, and no event
       after R and up to A changed a row of that generation. A may exceed the checkpoint on disk, because the
       projector writes checkpoints for ignored events at most once a second.
    3. The log's identity: (log id, epochs), for the log of today and for the log that the rows were folded from.
       The caller states a later epoch of the log (`absorb_log`) before the frame or row that carries it.

Argument
    a. By 1, a read at checkpoint C includes 1..C.
    b. If the feed spoke of the same generation and R <= C < A, the events C+1..A changed no row: those up to R are
       in 1..C, and those after R change nothing by 2. So the read includes 1..A as well.
    c. A statement about a generation never becomes false: its past does not change. So a lesser A, sent by a
       projector that has just restarted, replaces nothing, and a lost or skipped frame costs progress, not truth.
       A statement about one generation proves nothing about another. Frames about another generation, or about
       the same number with other code (version), replace what the feed stated before.
    d. A restore can end the log at a position and continue in a new epoch. Rows that were folded in epoch E agree
       with today's log below the first position of every later epoch. `bound` is the last such position; 0 for
       another log. Every claim is cut to the bound of the generation that was read. When the rows' log changes,
       what the feed stated beyond the bound is discarded.

Events that are left out
    A read with a token must include the token's *own* event, which the projection may have left out (parked).
    Feed and store state pairs (applied A, left out L): of the events up to A, none after L is left out.
    `own_event_applied(position)` returns the generation for which such a pair with L < position <= A is known.
    Without one the caller must ask the store about that event.

Positions
    applied: greatest position stated by anybody (feed or store) for rows that are read here.
    shown: greatest position that this server's own store has been observed to include. It lags behind `applied`
        on a replica. With `shows_commits` the store shows every commit at once, so `shown` equals `applied`.
    plain_required: position that a read without a consistency requirement must include: the greatest of `shown`
        and every position that this server acknowledged to a caller. So reads never appear to go back.

This module has no clock, no waiting, no refusals and no I/O. tests/unit/query_server/freshness/test_progress.py
checks the claim against a model of log, projector, store and feed.
"""

from __future__ import annotations

from diptych.contract.identity_codec import identity_from_message
from diptych.contract.token import LogIdentity
from diptych.internal.v1.feed_pb2 import ProjectionFeed
from query_server.rows.row_source import StoredGeneration

UNBOUNDED = 1 << 63
"""Value of `bound` while the rows and the log of today agree everywhere."""

_GENERATIONS_MAX = 8


class ProjectionProgress:
    """Progress of one projection, and the proof of what its reads include.

    Every `absorb_*` method but one returns True if earlier positions are no longer valid: rows in memory must then be
    dropped. `absorb_read` returns True if the read is new.
    """

    __slots__ = (
        "_feed_applied",
        "_feed_left_out",
        "_log_now",
        "_logs",
        "_polled",
        "_rows_generation",
        "_shows_commits",
        "applied",
        "bound",
        "changed",
        "checkpoint",
        "feed_filling",
        "feed_generation",
        "feed_version",
        "generation",
        "is_read_elsewhere",
        "is_stored",
        "plain_required",
        "rows_log",
        "shape",
        "shown",
        "version",
    )

    def __init__(self, version: int, shape: str = "", *, shows_commits: bool = True) -> None:
        """Begin without any knowledge.

        Args:
            version: Version of the projection's code.
            shape: Digest of the tables and rows that can be read here.
            shows_commits: True if the store is the projector's own database, False for a replica.
        """
        self.version = version
        self.shape = shape
        self.is_stored = False
        """True while the store has a readable active generation."""
        self.is_read_elsewhere = False
        """True while the feed reports a generation that is not read here: still filling, or of another shape."""
        self.applied = 0
        self.shown = 0
        self.plain_required = 0
        self.bound = UNBOUNDED
        """Greatest position up to which the rows and the log of today agree."""
        # The store.
        self.generation = 0
        self.checkpoint = 0
        self._polled = (0, 0, 0)  # A generation, a checkpoint of it, and its last left-out position up to there.
        # The feed, about one generation.
        self.feed_generation = 0
        self.feed_version = 0
        self.feed_filling = ""
        self._feed_applied = 0
        self.changed = 0
        """Position of the last event that changed a row, as stated by the feed with `feed_applied`."""
        self._feed_left_out = 0
        # The log.
        self.rows_log: LogIdentity | None = None
        """Log that the rows were folded from, as far as known."""
        self._rows_generation = 0  # The generation that `rows_log` and `bound` are about.
        self._logs: dict[int, LogIdentity] = {}  # The same for the last few generations: reads of them may be late.
        self._log_now: LogIdentity | None = None
        self._shows_commits = shows_commits

    # Questions.

    def includes(self, generation: int, checkpoint: int) -> int:
        """Return the position up to which a read of a generation at a checkpoint includes everything."""
        if generation == self.feed_generation and self.changed <= checkpoint < self._feed_applied:
            checkpoint = self._feed_applied
        return min(checkpoint, self._bound_for(generation))

    @property
    def store_includes(self) -> int:
        """Position up to which the store included everything when it was last observed."""
        return self.includes(self.generation, self.checkpoint)

    @property
    def feed_applied(self) -> int:
        """Applied position stated by the feed for `feed_generation`."""
        return self._feed_applied

    @property
    def is_diverged(self) -> bool:
        """True while the rows hold events that the log of today has lost."""
        return max(self.checkpoint, self._feed_applied) > self.bound

    def feed_applied_own_event(self, position: int) -> bool:
        """Return True if the feed stated that the event at a position was applied and is not left out."""
        return self._feed_left_out < position <= self._feed_applied

    def own_event_applied(self, position: int) -> int:
        """Return the generation that is read and known to have applied the event at a position; 0: not known."""
        # A statement about a generation that is no longer read, by a feed that has ended since, is of no use.
        if self.feed_applied_own_event(position) and self.generation in (0, self.feed_generation):
            return self.feed_generation
        generation, checkpoint, left_out = self._polled
        return generation if generation == self.generation and left_out < position <= checkpoint else 0

    def is_outdated(self, row: StoredGeneration) -> bool:
        """Return True for a stored generation of an earlier epoch than the feed has stated for the rows already."""
        log, rows_log = row.identity, self.rows_log
        return log is not None and rows_log is not None and log.log_id == rows_log.log_id and log.epoch < rows_log.epoch

    # Inputs.

    def absorb_feed(self, frame: ProjectionFeed) -> bool:
        """Take a frame of the feed. Frames of generations that are not read here leave the positions alone."""
        self.is_read_elsewhere = frame.filling_up or frame.shape not in ("", self.shape)
        # An older version continues to be folded after a newer one has taken over.
        if self.is_read_elsewhere or (self.is_stored and frame.version < self.version):
            return False
        voided = self._absorb_rows_log(identity_from_message(frame.identity), frame.generation)
        if (frame.generation, frame.version) != (self.feed_generation, self.feed_version):
            self.reset_feed_progress()
            self.feed_generation, self.feed_version = frame.generation, frame.version
        if frame.applied_position >= self._feed_applied:
            # A projector that has just started states less. What its predecessor stated remains true.
            self._feed_applied, self.changed = frame.applied_position, frame.changed_position
        # Between a lesser applied position and the greater one before, nothing is left out.
        self._feed_left_out, self.feed_filling = frame.left_out_position, frame.filling
        self.applied = max(self.applied, min(self._feed_applied, self.bound))
        self._raise_shown()
        return voided

    def absorb_store(self, row: StoredGeneration) -> bool:
        """Take a poll of the store: its active generation. An outdated row is ignored."""
        self.is_stored = True
        if self.is_outdated(row):
            return False
        self.version = row.version
        voided = 0 < self.feed_version < row.version
        if voided:
            self.reset_feed_progress()
        voided = self._absorb_rows_log(row.identity, row.generation) or voided
        self._polled = row.generation, row.position, row.left_out_position
        return voided

    def absorb_read(self, generation: int, checkpoint: int) -> bool:
        """Take the generation and checkpoint of any read of the store; return True if they are new."""
        if (generation, checkpoint) == (self.generation, self.checkpoint):
            return False
        self.generation, self.checkpoint = generation, checkpoint
        self.applied = max(self.applied, min(checkpoint, self._bound_for(generation)))
        self._raise_shown()
        return True

    def absorb_log(self, log: LogIdentity) -> bool:
        """Take the identity of the log of today."""
        before, self._log_now = self._log_now, log
        voided = before is not None and before != log
        if voided:
            self.reset_feed_progress()
            self._reset_to(min(self.checkpoint, self.bound))
        return self._update_bound() or voided

    def absorb_store_replaced(self) -> None:
        """Discard everything about the store: it is another one now."""
        self.is_stored = False
        self.generation = self.checkpoint = 0
        self._polled = (0, 0, 0)
        self._logs.clear()
        self.rows_log, self.bound = None, UNBOUNDED
        self.reset_feed_progress()
        self._reset_to(0)

    def reset_feed_progress(self) -> None:
        """Discard feed progress of a generation that is no longer read.

        `applied` stays: the generation that is read instead has reached it, or will within a moment.
        """
        self.feed_generation = self.feed_version = self._feed_applied = self.changed = self._feed_left_out = 0

    def acknowledge(self, position: int) -> None:
        """Note a position that this server reported as included, so that later plain reads include it as well."""
        if position > self.plain_required:
            self.plain_required = position

    # Derived positions.

    def _absorb_rows_log(self, log: LogIdentity | None, generation: int) -> bool:
        """Take the log that rows were folded from, stated by feed and store, one later than the other."""
        before = self.rows_log
        if log is None:
            return False
        if before is not None and log.log_id == before.log_id and log.epoch <= before.epoch:
            if log.epoch == before.epoch:
                self._note_generation(generation, log)
            return False
        if self.is_diverged:
            replaced = generation != (self.feed_generation or self.generation)
            self.reset_feed_progress()  # It was about events that the log has lost.
            if replaced:
                self.checkpoint = 0
                self._reset_to(0)
        self.rows_log = log
        self._note_generation(generation, log)
        return self._update_bound()

    def _note_generation(self, generation: int, log: LogIdentity) -> None:
        if generation != self._rows_generation or log is not self._logs.get(generation):
            self._rows_generation = generation
            self._logs[generation] = log
            if len(self._logs) > _GENERATIONS_MAX:
                del self._logs[min(self._logs)]

    def _bound_for(self, generation: int) -> int:
        """Return the position up to which the rows of a generation and the log of today agree."""
        if generation == self._rows_generation:
            return self.bound
        log = self._logs.get(generation)
        return self._unknown_bound() if log is None else self._bound_of(log)

    def _unknown_bound(self) -> int:
        """Return the bound of a generation whose log is not known: it may have been folded in any epoch."""
        now = self._log_now
        if now is None or self.rows_log is None:
            return UNBOUNDED
        return min((first - 1 for _, first in now.epochs[1:]), default=UNBOUNDED)

    def _bound_of(self, rows: LogIdentity | None) -> int:
        now = self._log_now
        if now is None or rows is None:
            return UNBOUNDED
        if now.log_id != rows.log_id:
            return 0
        return min((first - 1 for epoch, first in now.epochs if epoch > rows.epoch), default=UNBOUNDED)

    def _update_bound(self) -> bool:
        """Compare the rows' log with the log of today; return True if `bound` changed."""
        bound = self._bound_of(self.rows_log)
        if bound == self.bound:
            return False
        self.bound = bound
        self._reset_to(min(max(self.checkpoint, self._feed_applied), bound))
        return True

    def _reset_to(self, applied: int) -> None:
        """Set `applied` where it may fall, and lower with it what must not exceed it."""
        self.applied = applied
        self.shown = min(self.shown, applied)
        self.plain_required = min(self.plain_required, applied)
        self._raise_shown()

    def _raise_shown(self) -> None:
        shown = self.applied if self._shows_commits else min(self.store_includes, self.applied)
        if shown > self.shown:
            self.shown = shown
            if shown > self.plain_required:
                self.plain_required = shown
