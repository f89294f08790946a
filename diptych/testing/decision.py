"""The result of a command or of an input, with assertions about it."""

from __future__ import annotations

from typing import Generic, Self, TypeVar

from google.protobuf.message import Message

from diptych.contract.reasons import InvalidRequest
from diptych.domain.outputs import After, Call, Output, Send, Step
from diptych.domain.refusal import Refusal

S = TypeVar("S")


class Decision(Generic[S]):
    """The result of a command or of a process's input; made by `Given` and `GivenProcess`.

    The assertions raise `AssertionError` with the expected and the actual result. Those that succeed return the
    decision, so that they can be chained.
    """

    def __init__(self, state: S, step: tuple[Message | Output, ...], refusal: Refusal | None) -> None:
        self.state = state
        """The aggregate's state after the decision."""
        self.step = step
        """Events and outputs, in order."""
        self.refusal = refusal
        """The refusal; None if the decision succeeded."""

    @property
    def events(self) -> tuple[Message, ...]:
        """The events, without outputs."""
        return tuple(item for item in self.step if isinstance(item, Message))

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs of a process, without events."""
        return tuple(item for item in self.step if not isinstance(item, Message))

    def then(self, *step: Message | Output) -> Self:
        """Assert that the decision has exactly these events and outputs, in this order."""
        assert self.refusal is None, f"Refused by {self.refusal!r}"
        assert list(self.step) == list(step), f"Expected{_text(step)}\nbut recorded{_text(self.step)}"
        return self

    def then_nothing(self) -> Self:
        """Assert that the decision succeeded without events and outputs."""
        return self.then()

    def refused(self, refusal: Refusal) -> Self:
        """Assert that the command was refused by an equal refusal: the same class and the same fields."""
        assert self.refusal is not None, f"Expected {refusal!r}, but recorded{_text(self.step)}"
        assert self.refusal == refusal, f"Expected {refusal!r}, but was refused by {self.refusal!r}"
        return self

    def invalid(self, *paths: str) -> Self:
        """Assert that the command breaks rules of the contract for exactly these fields.

        Args:
            *paths: Full paths, as `items[0].quantity`.
        """
        assert self.refusal is not None, f"Expected a refusal, but recorded{_text(self.step)}"
        assert isinstance(self.refusal, InvalidRequest), f"Refused by {self.refusal!r}"
        assert sorted(path for path, _ in self.refusal.rules) == sorted(paths), f"Refused by {self.refusal!r}"
        return self


def _text(step: Step) -> str:
    if not step:
        return " nothing"
    return ":\n" + "\n".join(_item_text(item) for item in step)


def _item_text(item: Message | Output) -> str:
    match item:
        case Message():
            return f"{item.DESCRIPTOR.name} {{\n{item}}}"
        case After(delay, timeout):
            return f"after {delay}: {_item_text(timeout)}"
        case Send(command, compensates):
            return f"send{', to compensate,' if compensates else ''} {_item_text(command)}"
        case Call(request, compensates):
            return f"call{', to compensate,' if compensates else ''} {_item_text(request)}"
