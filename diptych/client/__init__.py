"""Client for Python programs: commands on one side, queries as fresh as their tokens on the other.

The type of a message selects its rpc; the services come from the descriptors of its package::

    async with Connection("127.0.0.1:50051", "127.0.0.1:50052") as shop:
        registered = await shop.execute(RegisterUserRequest(user_id="ada", email="ada@example.com"))
        ada = await shop.query(GetUserRequest(user_id="ada"), token=registered.result.token)

For many commands there is a pipelined stream, which continues after a restart of the server::

    async with shop.command_stream() as stream:
        futures = [await stream.submit(batch) for batch in batches]     # waits while the window is full
        for future in futures:
            for outcome in await future:
                ...                                                     # a CommandResult or a CallRefused
"""

from diptych.client.command_stream import CommandStream, Outcome
from diptych.client.connection import Connection
from diptych.client.errors import CallRefused, Violation
from diptych.client.methods import Method, import_contracts, method_of, with_context
from diptych.server.channels import open_client_channel as open_channel

__all__ = [
    "CallRefused",
    "CommandStream",
    "Connection",
    "Method",
    "Outcome",
    "Violation",
    "import_contracts",
    "method_of",
    "open_channel",
    "with_context",
]
