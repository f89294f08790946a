"""`diptych verify` on running pairs: nothing differs, and each kind of damage is named."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from google.type.money_pb2 import Money

from command_server.frames import recorded
from diptych.client import Connection
from diptych.v1.events_pb2 import EventBatch
from shop.v1.order_commands_pb2 import PlaceOrderRequest
from shop.v1.product_commands_pb2 import AdjustStockRequest, CreateProductRequest, ReviewProductRequest
from shop.v1.user_commands_pb2 import DeactivateUserRequest, RegisterUserRequest, UpdateUserProfileRequest
from tests.integration.harness import ROOT, Pair, eventually, started_pair

LONG = 60.0


def diptych_verify(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "diptych.cli",
            "verify",
            f"--log=sqlite:///{data / 'log.db'}",
            f"--read-store=sqlite:///{data / 'read.db'}",
            *arguments,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONG,
    )
