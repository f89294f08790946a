"""Processes: what the command server does for them beside deciding.

The log tells everything: what a process was told and what it wants done are events of its own stream. `host`
follows the log, hands every event to the instances that hear it, and starts what they want done; `commands`,
`effects` and `timers` do it; `lanes` has each instance take its inputs one after the other, and parks one that
cannot.
"""
