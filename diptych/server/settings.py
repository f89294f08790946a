"""Settings: read once at start from flags, environment (`DIPTYCH_*`) or a file, checked, and immutable from then on.

The command line makes a flag of every field: `batch_max` is `--batch-max` and `DIPTYCH_BATCH_MAX`. Names end with
their units.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from diptych.server.dsn import Dsn


def _address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:50051")
    return value


Address = Annotated[str, AfterValidator(_address)]


class ServerSettings(BaseSettings):
    """Settings of every server."""

    model_config = SettingsConfigDict(env_prefix="DIPTYCH_", env_ignore_empty=True, frozen=True, extra="ignore")

    domain: str = Field("shop", description="Python package of the domain to serve.")
    address: Address = Field(description="HOST:PORT to listen on; port 0 takes a free one.")
    insecure: bool = Field(False, description="Allow an address beyond loopback without TLS and authentication.")
    metrics_address: Address | None = Field(None, description="HOST:PORT for Prometheus metrics; unset: none.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level to log.")
    log_format: Literal["console", "json"] = Field("console", description="Format of the log lines on stderr.")
    message_bytes_max: int = Field(4 << 20, ge=1024, description="Largest request accepted, in bytes.")
    calls_max: int = Field(20_000, ge=1, description="Open calls at once, streams included; further ones are refused.")
    stop_seconds: float = Field(10.0, ge=0, description="Time for open calls to end when stopping, in seconds.")


class CommandServerSettings(ServerSettings):
    """Settings of the command server."""

    address: Address = Field("127.0.0.1:50051", description="HOST:PORT to listen on; port 0 takes a free one.")
    log: Dsn = Field("sqlite:///data/log.db", description="DSN of the log.")
    batch_commands_max: int = Field(1000, ge=1, le=10_000, description="Commands in one commit.")
    queue_commands_max: int = Field(
        10_000, ge=1, description="Commands waiting for a commit; further ones are refused."
    )
    stream_messages_max: int = Field(64, ge=1, description="Open messages of one command stream at once.")
    commands_bytes_max: int = Field(
        64 << 20, ge=1024, description="Bytes of commands that wait for their outcomes; further ones are refused."
    )
    stream_bytes_max: int = Field(
        8 << 20, ge=1024, description="Bytes of open commands and unread outcomes of one command stream."
    )
    outcomes_bytes_max: int = Field(
        64 << 20, ge=1024, description="Bytes of unread outcomes of all command streams together."
    )
    state_cache_entries: int = Field(10_000, ge=0, description="Aggregate states in memory.")
    state_cache_bytes_max: int = Field(
        64 << 20, ge=0, description="Estimated bytes of aggregate states in memory; 0: none stay."
    )
    request_ids_days: float = Field(
        30.0, ge=0, le=36_500, description="Days for which clients' request ids are remembered; 0: for ever."
    )
    snapshot_events: int = Field(500, ge=10, description="Events of a stream between two snapshots.")
    tail_events_max: int = Field(50_000, ge=1, description="Newest events in memory for subscribers.")
    tail_bytes_max: int = Field(32 << 20, ge=1024, description="Bytes of events in memory for subscribers.")
    subscriptions_max: int = Field(1000, ge=1, description="Subscriptions at once.")
    followers_max: int = Field(200, ge=1, description="Streams on which projectors follow the log at once.")
    head_watches_max: int = Field(1000, ge=1, description="Streams on which query servers watch the head at once.")
    waits_max: int = Field(10_000, ge=1, description="Calls that wait for an aggregate's version at once.")


class ProjectorSettings(ServerSettings):
    """Settings of the projector."""

    address: Address = Field("127.0.0.1:50053", description="HOST:PORT to listen on; port 0 takes a free one.")
    commands: Address = Field("127.0.0.1:50051", description="HOST:PORT of the command server.")
    read_store: Dsn = Field("sqlite:///data/read.db", description="DSN of the read store.")
    roll_back: bool = Field(
        False, description="Return to this code's versions of projections where the read store has newer ones."
    )
    batch_events_max: int = Field(2000, ge=1, le=10_000, description="Events folded in one commit.")
    feeds_max: int = Field(1000, ge=1, description="Query servers on the feed at once.")
    tombstone_hours: float = Field(
        24.0, gt=0, description="Time for which a watch can resume across deleted rows, in hours."
    )
    park_attempts: int = Field(4, ge=1, le=20, description="Attempts to fold an event before its stream is parked.")
    park_pause_seconds: float = Field(0.1, gt=0, description="Pause after the first attempt; it doubles.")
    parked_streams_max: int = Field(100, ge=0, description="Streams parked in a projection before it stalls instead.")


class QueryServerSettings(ServerSettings):
    """Settings of a query server."""

    address: Address = Field("127.0.0.1:50052", description="HOST:PORT to listen on; port 0 takes a free one.")
    commands: Address = Field("127.0.0.1:50051", description="HOST:PORT of the command server.")
    projector: Address = Field("127.0.0.1:50053", description="HOST:PORT of the projector.")
    read_store: Dsn = Field("sqlite:///data/read.db", description="DSN of the read store.")
    waits_max: int = Field(10_000, ge=1, description="Waits at once, those of queries included.")
    wait_seconds: float = Field(
        30.0, gt=0, description="Limit of a wait without a deadline, and of a list's read, in seconds."
    )
    readers: int = Field(2, ge=1, le=64, description="Connections to the read store.")
    cache_bytes_max: int = Field(64 << 20, ge=0, description="Bytes of rows and answers in the cache; 0: no cache.")
    combined_rows_max: int = Field(200_000, ge=1, description="Rows that one combined query may read.")
    combined_bytes_max: int = Field(
        128 << 20, ge=1024, le=240 << 20, description="Bytes of rows that one combined query may read."
    )
    watches_max: int = Field(2000, ge=1, description="Watches at once.")
    watched_keys_max: int = Field(2_000_000, ge=1, description="Keys watched at once, by all watches together.")
    watch_buffer_rows_max: int = Field(1000, ge=2, description="Buffered rows of a slow watch before it starts over.")
    watch_bytes_max: int = Field(
        256 << 20, ge=1 << 18, description="Bytes of unread frames and buffers of all watches together."
    )
    watch_buffer_bytes_max: int = Field(4 << 20, ge=1024, description="Buffered bytes of a slow watch, likewise.")
