"""Checks of reads: cuts, tokens, and what clients read after their own writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from tests.history.case import (
    REACHED,
    Case,
    check,
    describe,
    required_position,
)
from tests.history.model import FOREVER, overlap, position_of
from tests.history.records import Read, Wait, Write, WriteStatus


@check
def reads_are_cuts(case: Case) -> Iterator[str]:
    """Check that an answer is the view at one position, not before the presented and the trailer's token.

    A read with the token of a write therefore includes it, and no answer includes a command that was sent later.
    """
    for read in case.history.reads:
        if read.refused is not None:
            continue
        required = max(position_of(read.presented), position_of(read.trailer))
        head = case.possible_head(read.ended)
        spans = [(0, FOREVER)]
        rows = dict(read.rows)
        if read.whole:
            rows |= dict.fromkeys(case.truth.keys(read.view) - rows.keys())
        for key, content in rows.items():
            its = case.truth.spans(read.view, key, content)
            if not its:
                yield f"{describe(read)}: row {key} was never like that"
            elif its[-1][1] < required:
                yield f"{describe(read)} as of {required}: row {key} is stale, it was like that until {its[-1][1]}"
            elif its[0][0] > head:
                yield f"{describe(read)}: row {key} is as of {its[0][0]}, and at most {head} were recorded then"
            spans = overlap(spans, its)
        if not overlap(spans, [(required, head)]) and required <= head:
            yield f"{describe(read)}: the rows are of no one position from {required} to {head}"


@check
def tokens_tell_the_truth(case: Case) -> Iterator[str]:
    """Check that no token is beyond the greatest possible head, or below the presented token."""
    reads: list[Read | Wait] = [*case.history.reads, *case.history.waits]
    for call in reads:
        presented = call.presented if isinstance(call, Read) else call.token
        head = case.possible_head(call.ended)
        for token in (call.trailer, *([call.progress_token] if isinstance(call, Wait) else [])):
            if token and position_of(token) > max(head, position_of(presented)):
                yield f"{call.client} on {call.server} was told token {position_of(token)}, and the head was {head}"
        if call.refused is not None and not call.refused.reason:
            continue  # gRPC itself answered.
        # A refusal names the position of its decision. Only some reasons allow one before the required position.
        if call.trailer < presented:
            yield (
                f"{call.client} on {call.server} presented {position_of(presented)} and was answered with "
                f"{position_of(call.trailer)}"
            )


@check
def writes_are_read(case: Case) -> Iterator[str]:
    """Check by clients' records alone that a read with the token of a write includes it or a later version."""
    written: dict[str, list[Write]] = defaultdict(list)
    for write in case.history.writes:
        if write.status is WriteStatus.ACKNOWLEDGED:
            written[write.stream].append(write)
    streams = _streams_of_rows(case)
    for read in case.history.reads:
        if read.refused is not None or not read.presented:
            continue
        for key, content in read.rows.items():
            stream = streams.get(read.view)
            for write in written.get(f"{stream}/{key}", ()):
                if write.token <= read.presented:
                    version = _version(case, read.view, content)
                    if version is not None and version < write.version:
                        yield f"{describe(read)} with the token of version {write.version}, and got version {version}"
                        break


@check
def reads_do_not_go_back(case: Case) -> Iterator[str]:
    """Check that a client that carries its token never reads an earlier version of a row than before."""
    streams = _streams_of_rows(case)
    seen: dict[tuple[str, str, str], list[tuple[str, int]]] = defaultdict(list)
    for read in sorted(case.history.reads, key=lambda read: read.began):
        if read.refused is not None or read.view not in streams:
            continue
        for key, content in read.rows.items():
            version = _version(case, read.view, content)
            if version is None:
                continue
            earlier = [v for token, v in seen[read.client, read.view, key] if token and token <= read.presented]
            if earlier and version < max(earlier):
                yield f"{describe(read)}: version {version} after version {max(earlier)}"
            seen[read.client, read.view, key].append((read.trailer, version))


@check
def reached_is_readable(case: Case) -> Iterator[str]:
    """Check that a plain read on the same server after REACHED includes the awaited version."""
    reached: dict[str, list[Wait]] = defaultdict(list)
    for wait in case.history.waits:
        if wait.outcome == REACHED:
            reached[wait.server].append(wait)
    for read in case.history.reads:
        if read.refused is not None:
            continue
        projection = case.truth.projection_of[read.view]
        required = 0
        for wait in reached[read.server]:
            same = not wait.view or case.truth.projection_of[wait.view] == projection
            if same and wait.ended < read.began:
                required = max(required, required_position(case, wait))
        for key, content in read.rows.items():
            its = case.truth.spans(read.view, key, content)
            if its and its[-1][1] < required:
                yield f"{describe(read)}: row {key} is as of {its[-1][1]} at most, after REACHED for {required}"


def _streams_of_rows(case: Case) -> Mapping[str, str]:
    """Return the views whose rows are one aggregate each, with its id and version: the aggregate's type by view."""
    found: dict[str, str] = {}
    types = {event.aggregate.type for event in case.history.log}
    for name, view in case.truth.domain.views.items():
        if "version" in view.row.DESCRIPTOR.fields_by_name:
            for kind in types:
                if f"{kind}_id" in view.row.DESCRIPTOR.fields_by_name and name in (f"{kind}s", f"{kind}_summaries"):
                    found[name] = kind
    return found


def _version(case: Case, view: str, content: bytes | None) -> int | None:
    if content is None:
        return 0
    row = case.truth.domain.views[view].row.FromString(content)
    version: int | None = getattr(row, "version", None)
    return version
