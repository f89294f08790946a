"""A process with a history, and inputs for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.message import Message

from diptych.contract.validation import check
from diptych.domain.aggregate import AggregateRef, DeciderBinding, Deciding
from diptych.domain.inputs import Accepted, Answered, Failed, Refused
from diptych.domain.outputs import Send, Step
from diptych.domain.process import InputBinding, Process, stepped
from diptych.domain.refusal import Refusal
from diptych.domain.results import checked_step
from diptych.testing.aggregate_scenario import Given, evolved
from diptych.testing.decision import Decision
from diptych.testing.log import NOW

S = TypeVar("S")


class GivenProcess(Given[S]):
    """A process and its history; made by `given`.

    Each method below passes one input to the process and returns the decision. It raises `LookupError` if the process
    has no handler for the input, and `InvalidRequest` if the process sends a command that breaks its contract.
    """

    aggregate: Process[S]

    def reacts(self, event: Message, *, at: datetime = NOW) -> Decision[S]:
        """Pass an event of another aggregate. The decision is empty if the event is for no instance.

        Raises:
            ValueError: The event is for another instance than the history.
        """
        binding = _handler(self.aggregate, self.aggregate.events, event, "reacts to")
        assert binding.key is not None
        id = binding.key(event)
        if not id:
            return Decision(self.state, (), None)
        return self._handle(binding, event, at, id)

    def accepted(
        self, command: Message, *, aggregate: AggregateRef | None = None, version: int = 1, at: datetime = NOW
    ) -> Decision[S]:
        """Pass the acceptance of a command that the process sent.

        Args:
            command: The command.
            aggregate: The aggregate that accepted it.
            version: The aggregate's version after the command.
            at: The time of the decision.
        """
        binding = _handler(self.aggregate, self.aggregate.acceptances, command, "handles the acceptance of")
        return self._handle(binding, Accepted(command, aggregate or AggregateRef("", ""), version), at)

    def refused(self, command: Message, refusal: Refusal, *, at: datetime = NOW) -> Decision[S]:
        """Pass the refusal of a command that the process sent."""
        binding = _handler(self.aggregate, self.aggregate.refusals, command, "handles the refusal of")
        return self._handle(binding, Refused(command, refusal.reason, str(refusal), refusal.metadata), at)

    def answered(self, request: Message, answer: Message, *, at: datetime = NOW) -> Decision[S]:
        """Pass the answer of an effect that the process called."""
        binding = _handler(self.aggregate, self.aggregate.answers, request, "handles the answer to")
        return self._handle(binding, Answered(request, answer), at)

    def failed(self, request: Message, reason: str, message: str = "", *, at: datetime = NOW) -> Decision[S]:
        """Pass the permanent failure of an effect that the process called."""
        binding = _handler(self.aggregate, self.aggregate.failures, request, "handles the failure of")
        return self._handle(binding, Failed(request, reason, message), at)

    def times_out(self, timeout: Message, *, at: datetime = NOW) -> Decision[S]:
        """Pass a timeout that the process set."""
        return self._handle(_handler(self.aggregate, self.aggregate.timeouts, timeout, "handles timeout"), timeout, at)

    def _handle(self, binding: InputBinding, received: Any, now: datetime, id: str = "") -> Decision[S]:
        if self.id and id and self.id != id:
            raise ValueError(f"The history is of {self.aggregate.type} {self.id}, and the event is for {id}.")
        context = Deciding(
            id=self.id or id, version=self.version, now=now, actor=f"process/{self.aggregate.type}", states={}
        )
        name = binding.message.DESCRIPTOR.full_name
        what = f"Process {self.aggregate.type} on {name}"
        step = checked_step(what, binding.handle, binding.handle(self.state, received, context))
        return Decision(evolved(self.aggregate, self.state, self._events(step, now)), tuple(step), None)

    def _binding(self, command: Message) -> DeciderBinding:
        starter: Any = self.aggregate.starters[command.DESCRIPTOR.full_name]
        return super()._binding(command)._replace(decide=starter)

    def _checked(self, binding: DeciderBinding, step: Any) -> Step:
        name = binding.command.DESCRIPTOR.full_name
        return checked_step(f"Process {self.aggregate.type}, started by {name}", binding.decide, step)

    def _events(self, step: Step, at: datetime) -> Sequence[Message]:
        for item in step:
            if isinstance(item, Send):
                check(item.command)
        return stepped(self.aggregate, step, at, "")


def _handler(process: Process[Any], bindings: Mapping[str, InputBinding], message: Message, what: str) -> InputBinding:
    name = message.DESCRIPTOR.full_name
    if name not in bindings:
        raise LookupError(f"Process {process.type} has no handler that {what} {name}.")
    return bindings[name]
