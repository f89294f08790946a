"""ProcessService: processes as operators see them."""

from __future__ import annotations

import time

from command_server.processes.host import ProcessHost
from command_server.processes.instance_queue import InstanceQueue
from command_server.processes.outputs import Output
from command_server.store.event_store import EventStore, StoreUnavailable
from command_server.store.records import WorkKind
from diptych.contract.frames import recorded
from diptych.contract.reasons import LogUnavailable
from diptych.contract.validation import parse
from diptych.server.request_context import RequestContext
from diptych.server.router import Router
from diptych.v1 import processes_pb2 as messages

SERVICE = "diptych.v1.ProcessService"

_TROUBLES_MAX = 1000
"""STUCK and PARKED instances in an answer, for each type of process."""


class ProcessService:
    """Serves the processes of one host."""

    def __init__(self, host: ProcessHost, store: EventStore, router: Router) -> None:
        self._host = host
        self._store = store
        router.bind_unary(SERVICE, "ListProcesses", self._list)
        router.bind_unary(SERVICE, "RetryProcess", self._retry)
        router.bind_unary(SERVICE, "DiscardParkedInput", self._discard)
        router.bind_unary(SERVICE, "GiveUpOutput", self._give_up)

    async def _list(self, data: bytes, context: RequestContext) -> bytes:
        parse(messages.ListProcessesRequest, data)
        try:
            processes = [await self._status(name) for name in sorted(self._host.marks)]
        except StoreUnavailable as error:
            raise LogUnavailable(cause=str(error)) from error
        return messages.ListProcessesResponse(processes=processes).SerializeToString()

    async def _retry(self, data: bytes, context: RequestContext) -> bytes:
        request = parse(messages.RetryProcessRequest, data)
        parked = await self._host.retry(request.process, request.id)
        response = messages.RetryProcessResponse(parked=parked is not None, reason=parked.error if parked else "")
        return response.SerializeToString()

    async def _discard(self, data: bytes, context: RequestContext) -> bytes:
        request = parse(messages.DiscardParkedInputRequest, data)
        waiting = self._host.discard(request.process, request.id)
        return messages.DiscardParkedInputResponse(waiting_inputs=waiting).SerializeToString()

    async def _give_up(self, data: bytes, context: RequestContext) -> bytes:
        request = parse(messages.GiveUpOutputRequest, data)
        outputs, parked = await self._host.give_up(request.process, request.id)
        reason = parked.error if parked else ""
        return messages.GiveUpOutputResponse(
            outputs=outputs, parked=parked is not None, reason=reason
        ).SerializeToString()

    async def _status(self, name: str) -> messages.ProcessStatus:
        host, outputs = self._host, self._host.outputs
        status = messages.ProcessStatus(
            process=name,
            running_instances=await self._running(name),
            open_commands=outputs.kinds[name, WorkKind.COMMAND],
            open_effects=outputs.kinds[name, WorkKind.EFFECT],
            open_timeouts=outputs.kinds[name, WorkKind.TIMEOUT],
            stuck_instances=len(outputs.stuck_instances(name)),
            parked_instances=host.queues.parked.counts[name],
            position=host.marks[name].position,
        )
        await self._set_oldest_age(status)
        for queue in [queue for queue in host.queues.parked_queues() if queue.process == name][:_TROUBLES_MAX]:
            status.troubles.append(_parked_trouble(queue))
        stuck = [one for one in outputs.stuck.values() if one.work.process == name]
        for output in sorted(stuck, key=lambda one: one.key)[: _TROUBLES_MAX - len(status.troubles)]:
            status.troubles.append(_stuck_trouble(output, (await outputs.content(output)).message.TypeName()))
        return status

    async def _running(self, name: str) -> int:
        """Return the number of instances with open outputs; ask the store if memory does not have all timeouts."""
        outputs = self._host.outputs
        if outputs.stored[name]:
            return await self._store.count_running(name)
        return len(outputs.instances.get(name, ()))

    async def _set_oldest_age(self, status: messages.ProcessStatus) -> None:
        """Set the age of the oldest open command or effect."""
        works = (one.work for one in self._host.outputs)
        oldest = min(
            (work.position for work in works if work.process == status.process and work.kind != WorkKind.TIMEOUT),
            default=None,
        )
        if oldest is not None:
            frame = await self._store.frame_at(oldest)
            assert frame is not None, "an output was opened by an event that is not in the log"
            age = time.time_ns() - recorded(frame).record_time.ToNanoseconds()
            status.oldest_age.FromNanoseconds(max(0, age))


def _parked_trouble(queue: InstanceQueue) -> messages.ProcessTrouble:
    parked, one = queue.parked, queue.inputs[0]
    assert parked is not None
    trouble = messages.ProcessTrouble(
        process=queue.process,
        id=queue.id,
        kind=messages.PROCESS_TROUBLE_KIND_PARKED,
        reason=parked.error,
        input_type=one.type,
        position=one.position,
        attempts=parked.attempts,
        waiting_inputs=len(queue.inputs) - 1,
    )
    trouble.since_time.FromMicroseconds(parked.since)
    return trouble


def _stuck_trouble(output: Output, input_type: str) -> messages.ProcessTrouble:
    trouble = messages.ProcessTrouble(
        process=output.work.process,
        id=output.work.instance,
        kind=messages.PROCESS_TROUBLE_KIND_STUCK,
        reason=output.reason,
        input_type=input_type,
        position=output.work.position,
        attempts=output.attempts,
    )
    trouble.since_time.FromMicroseconds(int(output.since * 1e6))
    return trouble
