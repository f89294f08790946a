"""Freshness: what is known of every projection and of the log, the proof that a read includes a position, and waits.

**The proof.** A read gives rows with the checkpoint C of the generation that it read. It includes everything up to
C. The feed gives pairs (applied A, changed R) of a generation: up to A all is applied, and nothing up to A but
after R changed a row. So a read with C >= R includes everything up to A as well, and nothing that was once told of a
generation ceases to be true of it.

**What is left out.** A projection may leave out events that it could not fold. A read that must include a token's *own*
event needs to know that this one was applied. The feed and the store tell pairs (applied A, left out L) of a
generation: of all events up to A none after L is left out. Only for an event that no pair speaks of is the store asked,
before it is read.

**Waits** lie in a heap for each projection, by position, and are woken when that is applied, or when waiting has
become hopeless. They are not polled for; one slow poll of the store stands behind every notification.

Nothing in here does I/O: what is heard comes in by `heard_*` and `read_store`, and what must be asked goes out by
`Upstream`.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from diptych.contract.identity_codec import identity_from_message
from diptych.contract.reasons import (
    Overloaded,
    ReadModelBehind,
    ReadModelNotReady,
    ReadModelParked,
    ReadModelPaused,
    ReadModelRebuilding,
    ReadModelStalled,
    TokenAheadOfLog,
    TokenOfAnotherLog,
)
from diptych.contract.token import LogIdentity, Token
from diptych.domain.domain import Domain
from diptych.domain.refusal import Refusal
from diptych.internal.v1.feed_pb2 import FollowFeedResponse, ProjectionFeed
from diptych.storage.read_store_schema import shape
from diptych.v1.events_pb2 import RecordedEvent
from diptych.v1.projections_pb2 import ProjectionState
from query_server.rows.row_reader import StoredEvent, StoredGeneration

SILENCE_SECONDS = 1.0
"""The feed is taken for lost when it was silent for so long, and the store is polled instead."""

GONE_SECONDS = 3.0
"""A projection not heard of for so long has no state that is known."""

_HEADS_MAX = 4096
_HEAD_SECONDS = 0.02  # Twice as long as the command server takes to tell a new head.
_ASK_AGAIN_SECONDS = 0.1
_PAUSE_FIRST, _PAUSE_MAX = 0.005, 0.05
_UNBOUNDED = 1 << 63

RUNNING = ProjectionState.PROJECTION_STATE_RUNNING
CATCHING_UP = ProjectionState.PROJECTION_STATE_CATCHING_UP
REBUILDING = ProjectionState.PROJECTION_STATE_REBUILDING
PAUSED = ProjectionState.PROJECTION_STATE_PAUSED
STALLED = ProjectionState.PROJECTION_STATE_STALLED
UNKNOWN = ProjectionState.PROJECTION_STATE_UNSPECIFIED


class ReadAt(Protocol):
    """What a read says about itself."""

    @property
    def generation(self) -> int:
        """The generation that was read."""
        ...

    @property
    def position(self) -> int:
        """Its checkpoint then."""
        ...


class RowKeeper(Protocol):
    """Who keeps rows in memory, and must hear all that speaks about them."""

    def alive(self) -> None:
        """The feed gave a sign of life."""
        ...

    def heard(self, fed: ProjectionFeed) -> None:
        """The feed told something of a projection."""
        ...

    def lost(self) -> None:
        """The feed has ended."""
        ...

    def void(self, projection: str) -> None:
        """All that was known of a projection's rows is void."""
        ...

    def saw_store(self, projection: str, generation: int, checkpoint: int) -> None:
        """The store has this active generation with this checkpoint; 0: it has none that can be read."""
        ...


class EventReader(Protocol):
    """Who can look up in the store what became of an event."""

    async def event(self, projection: str, position: int) -> StoredEvent:
        """What the active generation of a projection did with the event at a position."""
        ...


Read = TypeVar("Read", bound=ReadAt)


class HeadHeard(NamedTuple):
    """What the command server said about the head."""

    identity: LogIdentity
    position: int


class Upstream(Protocol):
    """Whom freshness can ask."""

    async def ask_head(self) -> HeadHeard | None:
        """The head now; None: the command server cannot be reached."""
        ...

    def ask_checkpoint(self, projection: str) -> None:
        """Has the projector write a projection's checkpoint soon, if it can be reached."""
        ...


class _Wait:
    """One call that waits, in the heaps of one or several projections."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future

    def wake(self, *_: object) -> None:
        if not self.future.done():
            self.future.set_result(None)


Heap = list[tuple[int, int, _Wait]]
"""Waits by the position that they wait for, then by age."""


class Tracker:
    """What is known of one projection."""

    __slots__ = (
        "applied",
        "bound",
        "changed",
        "checkpoint",
        "elsewhere",
        "fed_filling",
        "fed_generation",
        "fed_left_out",
        "fed_state",
        "fed_version",
        "followed",
        "generation",
        "heap",
        "heard",
        "left_out_events",
        "log",
        "name",
        "parked_streams",
        "paused",
        "polled",
        "position",
        "reason",
        "shape",
        "stalled_event",
        "stored",
        "version",
    )

    def __init__(self, name: str, version: int, digest: str = "") -> None:
        self.name = name
        self.version = version
        self.shape = digest
        """What rows look like that can be read here."""
        self.elsewhere = False
        """Whether the feed speaks of a generation that is not read here: it is being filled, or is of another shape."""
        self.stored = False
        """Whether the store has a generation of it that can be read."""
        self.paused = False
        """Whether the store says that it is paused."""
        self.followed = False
        """Whether the feed that spoke of it is still there."""
        self.log: LogIdentity | None = None
        """The log that its rows were folded from, as far as is known."""
        self.bound = _UNBOUNDED
        """Beyond it the rows hold events that the log has lost, and none of those that it has there now."""
        self.generation = 0
        self.checkpoint = 0
        self.polled = (0, 0, 0)
        """A generation, a checkpoint that it had, and the last position up to there that it leaves out."""
        self.parked_streams = 0
        self.left_out_events = 0
        self.fed_generation = 0
        self.fed_version = 0
        self.fed_filling = ""
        self.fed_left_out = 0
        """The last position up to `applied` that is left out."""
        self.applied = 0
        self.changed = 0
        self.position = 0
        """The greatest position that is known to be applied, by the store or by the feed."""
        self.fed_state: ProjectionState = UNKNOWN
        self.reason = ""
        self.stalled_event: RecordedEvent | None = None
        self.heard = float("-inf")
        self.heap: Heap = []

    def includes(self, generation: int, checkpoint: int) -> int:
        """The position that a read of a generation at a checkpoint is proved to include everything up to."""
        if generation == self.fed_generation and self.changed <= checkpoint < self.applied:
            checkpoint = self.applied
        return min(checkpoint, self.bound)

    def feed_applied(self, position: int) -> bool:
        """Whether the feed has told that the event at a position was applied, and is not left out."""
        return self.fed_left_out < position <= self.applied

    def applied_in(self, position: int) -> int:
        """The generation that is read and known to have applied the event at a position; 0: that is not known."""
        # What was said of one that is no longer read, by a feed that has ended since, is of no use.
        if self.feed_applied(position) and self.generation in (0, self.fed_generation):
            return self.fed_generation
        generation, checkpoint, left_out = self.polled
        return generation if generation == self.generation and left_out < position <= checkpoint else 0

    def forget(self) -> None:
        """Forgets what the feed said, which was about another log."""
        self.turn_away()
        self.position = min(self.checkpoint, self.bound)

    def compare(self, log: LogIdentity | None) -> bool:
        """Finds out how far its rows are of the log that there is now; whether that changed.

        After a restore, what was recorded at a position is no longer what was folded from there.
        """
        bound = _UNBOUNDED
        if log is not None and self.log is not None:
            if log.log_id != self.log.log_id:
                bound = 0
            else:
                newer = [first - 1 for epoch, first in log.epochs if epoch > self.log.epoch]
                bound = min(newer, default=_UNBOUNDED)
        if bound == self.bound:
            return False
        self.bound = bound
        self.position = min(max(self.checkpoint, self.applied), bound)
        return True

    @property
    def diverged(self) -> bool:
        """Whether its rows hold events that the log has lost."""
        return max(self.checkpoint, self.applied) > self.bound

    def turn_away(self) -> None:
        """Forgets what the feed said about rows that are no longer read. What was told to be applied stays so: the
        generation that is read instead has it, or will in a moment."""
        self.fed_generation = self.fed_version = self.applied = self.changed = self.fed_left_out = 0

    def state(self, now: float) -> ProjectionState:
        """What it is doing, unless it has not been heard of for too long.

        Whether it is paused stands in the store, too, which tells it when the feed does not.
        """
        silence = now - self.heard
        if not self.followed or silence >= SILENCE_SECONDS:
            if self.paused:
                return PAUSED
            if self.fed_state == PAUSED:
                return UNKNOWN  # It was resumed since.
        if silence >= GONE_SECONDS:
            return UNKNOWN
        return REBUILDING if self.elsewhere and self.fed_state in (RUNNING, CATCHING_UP) else self.fed_state

    def serving(self, now: float) -> bool:
        """Whether its health is good."""
        return self.state(now) in (RUNNING, CATCHING_UP, REBUILDING)


class Head:
    """The head of the log, and since when it was known to be where."""

    def __init__(self) -> None:
        self.identity: LogIdentity | None = None
        self._rank = 0
        # By positions and by times, both ascending: at that time, the head was known to be at that position.
        self.heap: Heap = []
        self._positions: list[int] = []
        self._times: list[float] = []

    @property
    def position(self) -> int | None:
        """The head as last heard; None: never."""
        return self._positions[-1] if self._positions else None

    @property
    def heard(self) -> float | None:
        """When it was last heard."""
        return self._times[-1] if self._times else None

    def identified(self, identity: LogIdentity, rank: int) -> bool:
        """Learns the log's identity; whether it was another before.

        The command server (2) outranks the projector (1), and that the store (0).
        """
        before = self.identity
        if before is not None and rank < self._rank:
            return False
        self.identity, self._rank = identity, rank
        if before is None or before == identity:
            return False
        self._positions.clear()
        self._times.clear()
        return True

    def at(self, position: int, now: float) -> None:
        """Learns that the head was at a position at a time."""
        if not self._positions or position > self._positions[-1]:
            if len(self._positions) >= _HEADS_MAX:
                # Every second one goes; the newest stays. What is told by the rest is older, and still true.
                del self._positions[len(self._positions) - 2 :: -2], self._times[len(self._times) - 2 :: -2]
            self._positions.append(position)
            self._times.append(max(now, self._times[-1]) if self._times else now)
        elif position == self._positions[-1]:
            self._times[-1] = max(now, self._times[-1])

    def since(self, moment: float) -> int | None:
        """A position that includes all that was recorded before a moment; None: not heard since."""
        index = bisect_left(self._times, moment)
        return self._positions[index] if index < len(self._times) else None

    def fresh_at(self, position: int) -> float | None:
        """The last moment at which everything up to a position was known to be everything; None: never."""
        index = bisect_right(self._positions, position) - 1
        return self._times[index] if index >= 0 else None


class Freshness:
    """Knows how fresh every projection of a domain is, proves it, and waits for it. Lives on one event loop."""

    def __init__(
        self, domain: Domain, upstream: Upstream, *, waits_max: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.head = Head()
        self.trackers = {name: Tracker(name, p.version, shape(p)) for name, p in sorted(domain.projections.items())}
        self.waits = 0
        self.feed_connected = False
        self.closed = False
        self.listeners: list[Callable[[Tracker], None]] = []
        """Called when the feed or the store says something new of a projection."""
        self.poll_wanted = asyncio.Event()
        """Set while the store must be polled for waits that no feed will wake."""
        self._upstream = upstream
        self._waits_max = waits_max
        self._clock = clock
        self._feed_heard = float("-inf")
        self._started = clock()
        self._ordinal = 0
        self._asking: asyncio.Future[bool] | None = None
        self._token = (-1, "")
        self._compared: LogIdentity | None = None
        self.keeper: RowKeeper | None = None
        """Who is told what speaks about rows."""
        self.events: EventReader | None = None
        """Who is asked about an event of which neither feed nor store have told whether it was applied."""

    # What is heard.

    def heard_feed(self, frame: FollowFeedResponse) -> None:
        """Takes a frame of the projector's feed; an empty one is a sign of life."""
        self._feed_heard = now = self._clock()
        self.feed_connected = True
        if self.keeper is not None:
            self.keeper.alive()
        for fed in frame.projections:
            tracker = self.trackers.get(fed.name)
            if tracker is None:
                continue
            identity = identity_from_message(fed.identity)
            self._identified(identity, 1)
            tracker.elsewhere = fed.filling_up or fed.shape not in ("", tracker.shape)
            # An older version goes on being folded when a newer one answers.
            ours = not tracker.elsewhere and not (tracker.stored and fed.version < tracker.version)
            if ours:
                self._filled_from(tracker, identity, fed.generation)
            self._take(tracker, fed, ours=ours)
            self._tell(tracker)
            if self.keeper is not None:
                self.keeper.heard(fed)
        for tracker in self.trackers.values():
            if tracker.fed_state != UNKNOWN:
                tracker.heard, tracker.followed = now, True

    def _take(self, tracker: Tracker, fed: ProjectionFeed, *, ours: bool = True) -> None:
        """Takes what the feed says of a projection; `ours`: of a generation that is read here."""
        if ours:
            if (fed.generation, fed.version) != (tracker.fed_generation, tracker.fed_version):
                tracker.turn_away()
                tracker.fed_generation, tracker.fed_version = fed.generation, fed.version
            if fed.applied_position >= tracker.applied:
                # Less is what a projector says that has just started: what the one before it said stays true.
                tracker.applied, tracker.changed = fed.applied_position, fed.changed_position
            tracker.position = max(tracker.position, min(tracker.applied, tracker.bound))
            # Of what lies between a lesser applied position and the greater one before, nothing is left out.
            tracker.fed_left_out, tracker.fed_filling = fed.left_out_position, fed.filling
            tracker.parked_streams, tracker.left_out_events = fed.parked_streams, fed.left_out_events
        tracker.fed_state = fed.state
        tracker.reason = fed.reason
        tracker.stalled_event = fed.stalled_event if fed.HasField("stalled_event") else None
        if tracker.elsewhere or fed.state in (PAUSED, STALLED):
            self._wake(tracker.heap, None)  # Waiting is hopeless now.
        else:
            self._wake(tracker.heap, tracker.position)

    def lost_feed(self) -> None:
        """Takes note that the feed has ended: from now on the store is polled for those who wait."""
        self.feed_connected = False
        if self.keeper is not None:
            self.keeper.lost()
        for tracker in self.trackers.values():
            tracker.followed = False
        if self.waits:
            self.poll_wanted.set()

    def heard_head(self, position: int, identity: LogIdentity | None) -> None:
        """Takes the head from the command server."""
        self._identified(identity, 2)
        self.head.at(position, self._clock())
        self._wake(self.head.heap, self.head.position)

    def _identified(self, identity: LogIdentity | None, rank: int) -> None:
        if identity is not None and self.head.identified(identity, rank):
            self._token = -1, ""
            for tracker in self.trackers.values():
                self._forget(tracker)
        if self.head.identity != self._compared:
            self._compared = self.head.identity
            for tracker in self.trackers.values():
                self._compare(tracker)

    def _filled_from(self, tracker: Tracker, identity: LogIdentity | None, generation: int) -> None:
        """Learns which log a projection's rows were folded from. Store and feed tell it, one later than the other."""
        known = tracker.log
        if identity is None or identity == known:
            return
        if known is None or identity.log_id != known.log_id or identity.epoch > known.epoch:
            if tracker.diverged and generation != (tracker.fed_generation or tracker.generation):
                tracker.turn_away()
                tracker.position = tracker.checkpoint = 0  # They were of events that are lost.
            tracker.log = identity
            self._compare(tracker)

    def _compare(self, tracker: Tracker) -> None:
        if tracker.compare(self.head.identity) and self.keeper is not None:
            self.keeper.void(tracker.name)

    def replaced_store(self) -> None:
        """Takes note that the store is another file: what was known of the one before is void."""
        for tracker in self.trackers.values():
            tracker.stored = tracker.paused = False
            tracker.generation = tracker.checkpoint = 0
            tracker.log, tracker.bound = None, _UNBOUNDED
            tracker.polled = (0, 0, 0)
            self._forget(tracker)

    def read_store(self, found: Iterable[StoredGeneration]) -> None:
        """Takes what the store says about its active generations."""
        missing = set(self.trackers)
        for stored in found:
            tracker = self.trackers.get(stored.projection)
            if tracker is None:
                continue
            missing.discard(stored.projection)
            tracker.stored, tracker.paused = True, stored.paused
            if _is_earlier(stored.identity, tracker.log):
                continue  # The feed was faster to tell that a generation of a later life of the log has taken over.
            tracker.version = stored.version
            if 0 < tracker.fed_version < stored.version:
                tracker.turn_away()  # That was said of other folds.
                if self.keeper is not None:
                    self.keeper.void(tracker.name)
            self._identified(stored.identity, 0)
            self._filled_from(tracker, stored.identity, stored.generation)
            tracker.polled = stored.generation, stored.position, stored.left_out_position
            if not tracker.followed:
                tracker.parked_streams, tracker.left_out_events = stored.parked_streams, stored.left_out_events
            self.saw(tracker, stored.generation, stored.position)
            if self.keeper is not None:
                # What is kept would be told to be true at positions that the log has lost.
                generation = 0 if tracker.diverged else stored.generation
                self.keeper.saw_store(tracker.name, generation, stored.position if generation else 0)
            if tracker.heap and tracker.state(self._clock()) == PAUSED:
                self._wake(tracker.heap, None)
        for name in missing:
            self.trackers[name].stored = self.trackers[name].paused = False
            if self.keeper is not None:
                self.keeper.saw_store(name, 0, 0)

    def _forget(self, tracker: Tracker) -> None:
        tracker.forget()
        if self.keeper is not None:
            self.keeper.void(tracker.name)

    def saw(self, tracker: Tracker, generation: int, checkpoint: int) -> None:
        """Takes note of a checkpoint that a read came by."""
        if (generation, checkpoint) == (tracker.generation, tracker.checkpoint):
            return
        tracker.generation, tracker.checkpoint = generation, checkpoint
        if checkpoint > tracker.position:
            tracker.position = min(checkpoint, tracker.bound)
            self._wake(tracker.heap, tracker.position)
        self._tell(tracker)

    def _tell(self, tracker: Tracker) -> None:
        for listener in self.listeners:
            listener(tracker)

    def close(self) -> None:
        """Ends all waits, and lets none begin: they answer as at their deadline."""
        self.closed = True
        for heap in (self.head.heap, *(tracker.heap for tracker in self.trackers.values())):
            self._wake(heap, None)

    @property
    def readable(self) -> bool:
        """Whether any projection can be read."""
        return any(tracker.stored for tracker in self.trackers.values())

    @property
    def now(self) -> float:
        """The time, by the clock that everything here goes by."""
        return self._clock()

    @property
    def feed_age(self) -> float | None:
        """How long ago the feed was heard, in seconds; None: never."""
        return None if self._feed_heard == float("-inf") else self._clock() - self._feed_heard

    @property
    def feed_live(self) -> bool:
        """Whether the feed is there and not silent."""
        return self.feed_connected and self._clock() - self._feed_heard < SILENCE_SECONDS

    # What is told.

    def token(self, position: int) -> str:
        """The token for a position; empty while the log's identity is not known."""
        if position == self._token[0]:
            return self._token[1]
        identity = self.head.identity
        if identity is None:
            return ""
        text = identity.token(position)
        self._token = position, text
        return text

    def lag_events(self, position: int) -> int:
        """Events between a position and the head as last heard."""
        return max((self.head.position or 0) - position, 0)

    def lag_seconds(self, position: int) -> float:
        """For how long a position has not been known to be the head."""
        now = self._clock()
        head, heard = self.head.position, self.head.heard
        if head is not None and heard is not None and position >= head and now - heard < SILENCE_SECONDS:
            return 0.0
        fresh = self.head.fresh_at(position)
        return now - (self._started if fresh is None else fresh)

    # What is asked for.

    def wanted(self, tokens: Sequence[str], tracker: Tracker) -> int | None:
        """The position that tokens ask a projection for, where that can be said at once; raises as `position_of`."""
        if self.head.identity is None:
            return None
        position = self._judge([Token.parse(text) for text in tokens])
        return None if self._unheard(position, (tracker,)) else position

    async def position_of(self, tokens: Sequence[str], trackers: Sequence[Tracker], until: float) -> tuple[int, str]:
        """The position that tokens ask these projections for, and the greatest of the tokens.

        Raises `TokenMalformed`, `TokenOfAnotherLog`, `TokenOfOlderEpoch`, `TokenAheadOfLog`, and
        `ReadModelNotReady` while no log is known that could judge them.
        """
        parsed = [Token.parse(text) for text in tokens]
        while self.head.identity is None and not await self._ask_head(until):
            # The command server may be reached a moment later, as at a start.
            if self._clock() >= until or self.closed:
                raise ReadModelNotReady(projection=trackers[0].name)
            await self.news((), 0, min(until, self._clock() + _ASK_AGAIN_SECONDS), head=True)
        position = self._judge(parsed)
        if self._unheard(position, trackers):
            # The head, or even the projection, is often there in no time.
            await self.news(trackers, position, min(until, self._clock() + _HEAD_SECONDS), head=True)
            if self._unheard(position, trackers) and await self._ask_head(until):
                position = self._judge(parsed)  # It may be another life of the log by now.
                head = self.head.position or 0
                if position > head:
                    raise TokenAheadOfLog(position=position, head_position=head)
        return position, max(tokens)

    def _judge(self, tokens: Sequence[Token]) -> int:
        identity = self.head.identity
        assert identity is not None
        for token in tokens:
            if token.log_id != identity.log_id:
                raise TokenOfAnotherLog(token_log_id=token.log_id.hex(), log_id=identity.log_id.hex())
        return identity.judge(max(tokens))

    def _unheard(self, position: int, trackers: Sequence[Tracker]) -> bool:
        """Whether nobody has said that the log is as long as that."""
        return position > (self.head.position or 0) and all(position > tracker.position for tracker in trackers)

    async def position_within(self, tracker: Tracker, staleness: float, until: float) -> int:
        """A position that includes all that was recorded until `staleness` seconds ago; raises `ReadModelBehind`.

        A head that was heard longer ago is asked for, unless the projection stands still before even that: then it
        raises as `read_fresh` does.
        """
        moment = self._clock() - staleness
        asked = False
        while (position := self.head.since(moment)) is None:
            known = self.head.position or 0
            if (hopeless := self.hopeless(tracker, known)) is not None:
                raise hopeless
            if not asked:
                asked = True
                await self._ask_head(until)
            elif self._clock() >= until or self.closed:
                raise self.behind(tracker, max(known, tracker.position))
            else:  # The command server cannot be reached.
                await self.news((tracker,), 0, until, head=True)
        return position

    async def _ask_head(self, until: float) -> bool:
        """Asks the command server for the head, by a call that begins after this one; whether it answered.

        Those who come while a call is under way share the next one.
        """
        earlier = self._asking
        if earlier is not None and not earlier.done():
            await asyncio.wait((earlier,), timeout=max(until - self._clock(), 0))
        if self._asking is earlier and (earlier is None or earlier.done()):
            self._asking = asyncio.ensure_future(self._ask())
        mine = self._asking
        if mine is None or mine is earlier:
            return False
        await asyncio.wait((mine,), timeout=max(until - self._clock(), 0))
        return mine.done() and mine.result()

    async def _ask(self) -> bool:
        asked = self._clock()
        heard = await self._upstream.ask_head()
        if heard is None:
            return False
        self._identified(heard.identity, 2)
        self.head.at(heard.position, asked)
        return True

    # Waiting.

    async def read_fresh(
        self,
        tracker: Tracker,
        wanted: int,
        until: float,
        read: Callable[[], Awaitable[Read]],
        kept: Callable[[int], tuple[Read, int] | None] = lambda _: None,
        *,
        own: bool = False,
    ) -> tuple[Read, int]:
        """Reads when a position is included; gives the read and the position that it includes everything up to.

        After a wait, `kept` gives what need not be read, if it includes a position. With `own` the event at the
        position itself must have been applied, and not be left out.

        Raises `ReadModelBehind` when `until` comes before that, `ReadModelParked`, `ReadModelPaused` or
        `ReadModelStalled` when it cannot come.
        """
        pause = _PAUSE_FIRST
        while True:
            if tracker.position >= wanted or not self.feed_live:
                # Before the read: what is applied by now is in what is read from now on.
                applied_in = await self.applied_in(tracker, wanted) if own else 0
                got = await read()
                self.saw(tracker, got.generation, got.position)
                included = tracker.includes(got.generation, got.position)
                if included >= wanted and (not own or not wanted or applied_in == got.generation):
                    return got, included
            now = self._clock()
            if (hopeless := self.hopeless(tracker, wanted)) is not None:
                raise hopeless
            if now >= until or self.closed:
                # It may be applied by now, and was not in what was read in time.
                raise self.behind(tracker, wanted, min(tracker.position, max(wanted - 1, 0)))
            if tracker.position >= wanted:
                # It is applied, and the store that we read does not show it yet.
                self._upstream.ask_checkpoint(tracker.name)
                await asyncio.sleep(min(pause, until - now))
                pause = min(pause * 2, _PAUSE_MAX)
            else:
                await self.news((tracker,), wanted, until)
                if (found := kept(wanted)) is not None:
                    return found

    async def applied_in(self, tracker: Tracker, position: int) -> int:
        """The generation that has applied the event at a position; 0: it is not known that one has.

        Raises `ReadModelParked` if the event is left out, `ReadModelNotReady`.
        """
        known = tracker.applied_in(position)
        if known or not position or self.events is None:
            return known
        stored = await self.events.event(tracker.name, position)
        if stored.error is not None:
            raise ReadModelParked(projection=tracker.name, position=position, error=stored.error)
        return stored.generation if stored.checkpoint >= position else 0

    def hopeless(self, tracker: Tracker, wanted: int) -> Refusal | None:
        """Why a position will not be included however long one waits; None: it may be."""
        if tracker.position >= wanted:
            return None
        name, applied = tracker.name, tracker.position
        match tracker.state(self._clock()):
            case ProjectionState.PROJECTION_STATE_PAUSED:
                return ReadModelPaused(projection=name, applied_position=applied, wanted_position=wanted)
            case ProjectionState.PROJECTION_STATE_STALLED:
                return ReadModelStalled(
                    projection=name, applied_position=applied, wanted_position=wanted, stall_reason=tracker.reason
                )
            case ProjectionState.PROJECTION_STATE_REBUILDING if tracker.elsewhere:
                return ReadModelRebuilding(projection=name, applied_position=applied, wanted_position=wanted)
            case _:
                return None

    def absent(self, tracker: Tracker) -> Refusal:
        """The refusal for a read where there is no generation that can be read."""
        if tracker.elsewhere and not tracker.stored and tracker.state(self._clock()) == REBUILDING:
            return ReadModelRebuilding(
                projection=tracker.name,
                applied_position=tracker.position,
                wanted_position=max(self.head.position or 0, tracker.position),
            )
        return ReadModelNotReady(projection=tracker.name)

    def behind(self, tracker: Tracker, wanted: int, applied: int | None = None) -> Refusal:
        """The refusal for a read that would not have been fresh enough in time."""
        applied = tracker.position if applied is None else applied
        return ReadModelBehind(
            projection=tracker.name,
            applied_position=applied,
            wanted_position=wanted,
            lag_events=max(self.lag_events(applied), wanted - applied),
        )

    async def news(self, trackers: Sequence[Tracker], wanted: int, until: float, *, head: bool = False) -> None:
        """Waits until a position is applied to one of the projections, or one has stopped, or `until`.

        With `head` it ends as well when the head is heard to be there.

        Raises `Overloaded` when too many wait.
        """
        if self.closed:
            return
        if self.waits >= self._waits_max:
            raise Overloaded(what="waits", limit=self._waits_max).with_details(retry_seconds=1)
        loop = asyncio.get_running_loop()
        wait = _Wait(loop.create_future())
        self.waits += 1
        self._ordinal += 1
        heaps = [tracker.heap for tracker in trackers]
        if head:
            heaps.append(self.head.heap)
        for heap in heaps:
            heapq.heappush(heap, (wanted, self._ordinal, wait))
        if trackers and not self.feed_live:
            self.poll_wanted.set()
        timer = loop.call_later(max(until - self._clock(), 0), wait.wake)
        try:
            await wait.future
        finally:
            timer.cancel()
            self.waits -= 1
            wait.future.cancel()
            for heap in heaps:
                self._tidy(heap)

    def _wake(self, heap: Heap, position: int | None) -> None:
        """Wakes who waits for a position or less; None: all."""
        if position is None:
            for _, _, wait in heap:
                wait.wake()
            heap.clear()
            return
        while heap and heap[0][0] <= position:
            heapq.heappop(heap)[2].wake()

    def _tidy(self, heap: Heap) -> None:
        """Drops waits that have ended from a heap, when they might be most of it."""
        while heap and heap[0][2].future.done():
            heapq.heappop(heap)
        if len(heap) > 2 * self.waits + 64:
            heap[:] = [entry for entry in heap if not entry[2].future.done()]
            heapq.heapify(heap)


def _is_earlier(one: LogIdentity | None, other: LogIdentity | None) -> bool:
    """Whether one is an earlier life of the same log."""
    return one is not None and other is not None and one.log_id == other.log_id and one.epoch < other.epoch
