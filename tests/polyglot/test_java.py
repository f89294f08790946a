"""Java code that is generated from `contracts.binpb` compiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.polyglot.workshop import Workshop, commands_for, environment

pytestmark = pytest.mark.timeout(900)  # It may download a compiler plugin and everything that gRPC needs.


def test_the_contracts_compile(tmp_path: Path) -> None:
    workshop = Workshop("java", tmp_path, environment("javac", "mvn"))
    for command in commands_for("Java"):
        workshop.run(command)
    classes = workshop.folder / "target" / "classes" / "io" / "diptych"
    for name in ("shop/v1/User", "shop/v1/CommandServiceGrpc", "v1/ReadModelServiceGrpc", "v1/ErrorReason"):
        assert (classes / f"{name}.class").is_file(), name
