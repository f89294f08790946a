"""Tests of a domain without a server: deciders, folds, queries and processes, each after the events before.

A decider::

    given(copy, registered, borrowed).when(BorrowCopyRequest(copy_id="c1", member_id="m2")) \\
        .refused(CopyOnLoan(copy_id="c1", member_id="m1"))

A process, from any of its inputs; `then` asserts all events and outputs in order::

    given(reservation, started).refused(HoldCopyRequest(copy_id="c1"), CopyOnLoan(copy_id="c1", member_id="m1")) \\
        .then(ReservationFailed(copy_id="c1"), call(Mail(...)))

A view, or a whole projection::

    assert fold(open_loans, registered, borrowed) == {"c1.1": OpenLoan(...)}

A query::

    assert ask(lending, GetMemberRequest(member_id="m1"), registered) == Member(...)

Each of these also checks the rules on which the engine relies: a command keeps the rules of its contract, deciders and
evolvers do not change their arguments, a state is the same after a snapshot, and rows do not depend on the division of
events into batches.

`explore` runs a process through every order of events, answers and timeouts, and `diagram` draws its steps.
"""

from diptych.testing.aggregate_scenario import Given
from diptych.testing.ask import ask
from diptych.testing.decision import Decision
from diptych.testing.diagram import diagram
from diptych.testing.explore import Explored, explore
from diptych.testing.explorer import Answer, Effect, Transition
from diptych.testing.fold import fold
from diptych.testing.given import given
from diptych.testing.log import LOG_START, NOW, log_of, recorded
from diptych.testing.process_scenario import GivenProcess
from diptych.testing.world import World

__all__ = [
    "LOG_START",
    "NOW",
    "Answer",
    "Decision",
    "Effect",
    "Explored",
    "Given",
    "GivenProcess",
    "Transition",
    "World",
    "ask",
    "diagram",
    "explore",
    "fold",
    "given",
    "log_of",
    "recorded",
]
