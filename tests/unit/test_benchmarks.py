"""The benchmarks' runner: statistics, the record and what falls behind it, the report. No figure is measured here."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import cases, machine, plots, record, report, workloads
from benchmarks.bench import CASES, QUICK, Bench
from benchmarks.measure import Measure, absent, alone, best_ratio, compared, percentile, ratio, summary
from benchmarks.worker import JobFailed, Worker
from diptych.contract.validation import check
from diptych.v1.commands_pb2 import ExecuteRequest

ROOT = Path(__file__).resolve().parents[2]


def a_measure(name: str = "command-64/echo", rate: float = 60.0) -> Measure:
    return compared(name, "a command", [rate, rate + 2, rate - 2], "/s", "E", [100.0, 100.0, 100.0], at_least=0.5)


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], percent) == expected


def test_the_percentile_of_one_value_is_that_value() -> None:
    assert [percentile([7.0], percent) for percent in (0, 50, 99)] == [7.0, 7.0, 7.0]


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 50)
    with pytest.raises(ValueError, match="no round"):
        summary([])
    with pytest.raises(ValueError, match="every round"):
        ratio([1.0, 2.0], [1.0])


def test_a_ratio_is_that_of_each_round_and_not_of_the_medians() -> None:
    # The machine became twice as slow: both sides did, and their ratio stayed.
    assert ratio([50, 50, 25, 25], [100, 100, 50, 50]) == (0.5, 0.5, 0.5)


def test_a_ratio_of_times_is_turned_so_that_more_is_better() -> None:
    assert ratio([2.0], [1.0], less_is_better=True).value == 0.5
    assert best_ratio([2.0, 4.0], [1.0, 3.0], less_is_better=True) == 0.5
    assert best_ratio([2.0, 4.0], [1.0, 5.0]) == 0.8


def test_a_measure_is_judged_by_all_of_its_targets() -> None:
    rates, references = [60.0, 60.0], [100.0, 100.0]
    made = compared("a", "a", rates, "/s", "E", references, at_least=0.5, floor=50)
    assert (made.target, made.met) == (">= 0.5 x, >= 50 /s", True)
    assert compared("a", "a", rates, "/s", "E", references, at_least=0.5, floor=70).met is False
    assert compared("a", "a", rates, "/s", "E", references, at_least=0.7, floor=50).met is False
    assert compared("a", "a", rates, "/s", "E", references).met is None
    assert alone("a", "a", [3.0], "ms", ceiling=2).met is False
    assert alone("a", "a", [2.0], "ms", ceiling=2).met is True


def test_the_record_keeps_what_was_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "recorded.json"
    record.write({"cores": 2}, [a_measure("one/a"), a_measure("two/a")], [a_measure("one/a")], path)
    written = record.write({"cores": 4}, [a_measure("two/a", 80.0), absent("three/a", "c", "no c")], [], path)
    assert written == record.read(path)
    assert written["machine"] == {"cores": 4}
    assert set(written["measures"]) == {"one/a", "two/a"}
    assert (written["measures"]["one/a"]["figure"], written["measures"]["two/a"]["figure"]) == (60.0, 80.0)
    assert written["quick"] == {"one/a": 0.62}
    assert [measure.name for measure in record.measures_of(written)] == ["one/a", "two/a"]
    assert record.measures_of(written)[0] == a_measure("one/a")


def test_a_ratio_under_half_of_the_recorded_one_is_a_regression(tmp_path: Path) -> None:
    recorded = record.write({}, [], [a_measure("one/a"), a_measure("two/a")], tmp_path / "recorded.json")
    measures = [a_measure("one/a", 28.0), a_measure("two/a", 30.0), a_measure("new/a", 1.0)]
    (told,) = record.regressions(measures, recorded)
    assert told == "one/a: 0.30 x its reference, and 0.62 x is recorded"


def test_the_table_shows_figure_reference_ratio_spread_and_target() -> None:
    console = Console(width=200, file=io.StringIO(), record=True)
    report.show([a_measure(), absent("peer/a", "beside a peer", "it is not installed")], machine.description(), console)
    shown = console.export_text()
    for expected in (
        "60.0 /s",
        "58.0 to 62.0",
        "E: 100",
        "0.60",
        "0.58 to 0.62",
        ">= 0.5 x",
        "yes",
        "it is not installed",
    ):
        assert expected in shown


def test_the_readme_takes_the_table_between_its_markers(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"# Before\n{report.BEGIN}\nold\n{report.END}\n# After\n")
    written = {"machine": machine.description()}
    for _ in range(2):  # It can be put there again and again.
        report.put_between_markers(path, report.markdown(written, [a_measure()]))
    text = path.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("\n# After\n")
    assert "old" not in text
    assert text.count("| a command | 60.0 /s | E: 100 | 0.60 (0.58 to 0.62) | >= 0.5 x | yes |") == 1
    path.write_text("# No place\n")
    with pytest.raises(report.MarkersMissingError, match=r"README\.md"):
        report.put_between_markers(path, "")


def test_benchmarks_readme_shows_every_recorded_measure() -> None:
    written = record.read()
    assert report.markdown(written, record.measures_of(written)) in (ROOT / "benchmarks/README.md").read_text("utf-8")


def test_readme_shows_eight_recorded_measures() -> None:
    written = record.read()
    eight = report.headlines(written, record.measures_of(written))
    assert eight.count("\n| ") == 1 + len(report.HEADLINES) == 9
    assert eight in (ROOT / "README.md").read_text("utf-8")


def test_everything_recorded_was_measured_by_a_case_that_is_there() -> None:
    written = record.read()
    named = {name.partition("/")[0] for name in (*written["measures"], *written["quick"])}
    assert named <= {name.partition("/")[0] for name in CASES} | {"memory"}
    assert {name.partition("/")[0] for name in written["quick"]} == {one.name for one in CASES.values() if one.quick}
    assert all(math.isfinite(one["figure"]) for one in written["measures"].values())
    json.dumps(written, allow_nan=False)


def test_the_machine_is_described_without_names() -> None:
    described = machine.description()
    assert set(described) == {"processor", "cores", "memory_gib", "system", "python", "sqlite", "packages"}


def test_a_plot_has_the_points_of_its_series_and_no_others() -> None:
    measures = [
        alone(name, "", [float(index)], "us") for index, name in enumerate(("a/100", "a/20", "a/b/3", "ab/4", "a/r"))
    ]
    assert plots.points(measures, "a") == {20.0: 1.0, 100.0: 0.0}


def test_workloads_give_the_same_request_for_the_same_number_and_keep_the_rules() -> None:
    for name, make in workloads.WORKLOADS.items():
        one, again, other = make(7), make(7), make(8)
        assert one == again, name
        check(one)
        if name not in ("get_product", "anonymous_product"):
            assert one != other, name


def test_envelopes_hold_the_commands_in_order_with_their_request_ids() -> None:
    first, second = map(ExecuteRequest.FromString, workloads.envelopes("create_product", 5, 2, 3))
    ids = [envelope.context.request_id for message in (first, second) for envelope in message.commands]
    assert ids == [f"create-product-{n:09d}" for n in range(5, 11)]


def test_every_case_says_what_it_is_about() -> None:
    assert len(cases.__all__) == len(set(cases.__all__))
    assert all(one.about for one in CASES.values())
    assert sum(one.quick for one in CASES.values()) >= 4


def test_rounds_take_turns_in_changing_order(tmp_path: Path) -> None:
    order: list[str] = []
    with Bench(QUICK, tmp_path) as bench:
        results = bench.rounds(lambda: order.append("a"), lambda: order.append("b"), warm_up=False, times=3)
    assert "".join(order) == "abbaab"
    assert [len(rounds) for rounds in results] == [3, 3]
    assert not bench.folder.exists()


def test_a_worker_does_jobs_and_tells_what_failed() -> None:
    with Worker() as worker:
        assert worker.call("benchmarks.measure:percentile", values=[1, 2, 3], percent=50) == 2
        with pytest.raises(JobFailed, match="nothing was measured"):
            worker.call("benchmarks.measure:percentile", values=[], percent=50)
        assert worker.call("benchmarks.measure:percentile", values=[4], percent=50) == 4
