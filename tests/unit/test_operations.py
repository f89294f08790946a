"""`docs/operations.md` agrees with the code: metrics, expressions for alerts, and units of systemd."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.server.settings import CommandServerSettings, ProjectorSettings, QueryServerSettings, ServerSettings

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "operations.md").read_text("utf-8")
FOLDERS = {"command server": "command_server", "projector": "projector", "query server": "query_server"}
METRIC = re.compile(r'\b(Counter|Gauge|Histogram|CounterMetricFamily|GaugeMetricFamily)\(\s*"(diptych_\w+)"')
SETTINGS: dict[str, type[ServerSettings]] = {
    "command-server": CommandServerSettings,
    "projector": ProjectorSettings,
    "query-server": QueryServerSettings,
}


def metrics_of(folder: str) -> set[str]:
    """Return the metrics of a server, by the names that Prometheus shows."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for kind, name in METRIC.findall(path.read_text("utf-8")):
            found.add(f"{name}_total" if kind.startswith("Counter") else name)
    return found


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


UNITS = {re.findall(r"^# /etc/systemd/system/(\S+)$", text, re.MULTILINE)[0]: text for text in blocks("ini")}


@pytest.mark.parametrize("server", FOLDERS)
def test_the_guide_lists_every_metric_of_a_server_and_no_other(server: str) -> None:
    rows = re.findall(r"^\| ([a-z, ]+) \| `(diptych_\w+)` \|", GUIDE, re.MULTILINE)
    listed = {name for servers, name in rows if server in servers.split(", ")}
    assert metrics_of(FOLDERS[server])
    assert listed == metrics_of(FOLDERS[server])


def test_expressions_for_alerts_use_metrics_that_exist() -> None:
    (alerts,) = blocks("promql")
    expressions = [line for line in alerts.splitlines() if not line.startswith("#")]
    assert len(expressions) >= 6
    existing = set().union(*(metrics_of(folder) for folder in FOLDERS.values()))
    for expression in expressions:
        used = set(re.findall(r"diptych_\w+", expression))
        assert used <= existing, expression
        assert expression.count("(") == expression.count(")")
        assert expression.startswith("up{") or used


def test_units_start_each_server_with_options_that_exist() -> None:
    assert sorted(UNITS) == sorted(f"diptych-{name}.service" for name in SETTINGS)
    for file, text in UNITS.items():
        unit = configparser.ConfigParser(interpolation=None, strict=True)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read_string(text)
        program, name, *options = shlex.split(unit["Service"]["ExecStart"])
        assert file == f"diptych-{name}.service"
        assert program.endswith("/bin/diptych")
        pairs = zip(options[::2], options[1::2], strict=True)
        values = {flag.removeprefix("--").replace("-", "_"): value for flag, value in pairs}
        assert values.keys() <= SETTINGS[name].model_fields.keys()
        SETTINGS[name].model_validate(values)
        for other in unit["Unit"].get("Wants", "").split():
            assert other in UNITS


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for file, text in UNITS.items():
        # The program of the guide is not installed here; systemd checks that it can be executed.
        (tmp_path / file).write_text(text.replace("/opt/diptych/.venv/bin/diptych", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / file) for file in UNITS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    complaints = [line for line in done.stderr.splitlines() if "diptych" in line]
    assert complaints == [], done.stderr
