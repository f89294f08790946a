"""The library with folds that fail on events of the aggregates that a file lists, one id a line.

The environment variable `BRITTLE_FILE` names the file. Each fold reads it, so that a change of the file takes effect at
once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from diptych.domain.aggregate import AggregateRef
from diptych.domain.folds import Handler
from diptych.domain.recorded import Recorded
from library import domain
from library.lending import members, open_loans
from library.v1.events_pb2 import MemberRegistered

__all__ = ["domain"]


class Broken(Exception):
    """A fold failed on purpose."""


def _breaks(aggregate: AggregateRef) -> bool:
    file = Path(os.environ["BRITTLE_FILE"])
    return file.exists() and aggregate.id in file.read_text().split()


def _brittle(handler: Handler) -> Handler:
    def fold(row: Any, event: Any, at: Recorded) -> Any:
        if _breaks(at.aggregate):
            raise Broken(f"events of {at.aggregate} break this fold")
        return handler.fold(row, event, at)

    return handler._replace(fold=fold)


# Of an event that two views fold, the first view has changed already when the second fails.
for _view, _events in ((members, [MemberRegistered.DESCRIPTOR.full_name]), (open_loans, list(open_loans.handlers))):
    for _event in _events:
        _view.handlers[_event] = _brittle(_view.handlers[_event])
