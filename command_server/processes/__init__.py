"""Processes on the command server.

The log is the only record: each step of a process, its input and its outputs, is an event of the instance's stream.

1. `log_follower` reads the log; each event that a process reacts to becomes an input of one instance.
2. `instance_queues` gives each instance its inputs one after the other; `steps` sends them through the writer.
3. `output_router` starts the outputs of recorded steps by `commands`, `effects` and `timers`; their outcomes become
   inputs again.
4. `parked_inputs` keeps inputs on which the code of a process fails, until an operator retries or discards them.
"""
