"""The run on a device: what it writes, what a death costs, its arithmetic. No test is of speed."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.device import __main__ as command
from benchmarks.device import kernels, process, rivals, suite, tables
from benchmarks.device.cases import CELLS, DTYPES, KINDS, ORDER, PUBLISHED, ROWS, cases

ROOT = Path(__file__).parent.parent


@pytest.mark.long
def test_the_command(tmp_path):
    """Every stage runs; what our cells and the rivals compute agrees with the reference."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    few = ("--cells", "LSTM", "--dtypes", "bfloat16", "--minutes", "15")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.device", "--tiny", "--out", str(tmp_path), *few],
        cwd=ROOT,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "device.jsonl").read_text().splitlines()]
    assert not [row for row in rows if row.keys() & {"died", "skipped"}]
    assert {row["stage"] for row in rows} == set(command.STAGES)
    timed = [row for row in rows if row["stage"] == "grid" and "median_ms" in row]
    assert {row["point"] for row in timed} == {"long-small", "2 x 8"}
    for point in ("long-small", "2 x 8"):
        for kind in KINDS:
            of = {r["candidate"]: r for r in timed if (r["point"], r["kind"]) == (point, kind)}
            assert {rivals.SCAN, *rivals.FLAX} <= set(of)
            assert all(0 < row["error"] <= row["tolerance"] for row in of.values())
            assert all(0 < r["lower_ms"] <= r["median_ms"] <= r["upper_ms"] for r in of.values())
            assert all(r["device"] == "cpu" and r["versions"]["jax"] for r in of.values())
    (shown,) = (r for r in rows if r["stage"] == "profile" and r.get("candidate") == rivals.SCAN)
    assert shown["launches"] > 0
    variants = {row["variant"] for row in rows if row["stage"] == "flag" and "median_ms" in row}
    assert "without" in variants
    assert "## Ratios" in (tmp_path / "device.md").read_text()


def test_cases():
    """The grid for both cells and types, and the published sizes once."""
    all_of = list(cases(tiny=False))
    assert len(all_of) == len(CELLS) * len(DTYPES) * len(ORDER) + len(PUBLISHED | ROWS)
    assert {case.H * case.heads for case in all_of if case.point in PUBLISHED} == {768}
    assert all((ROOT / file).parent.exists() for file in suite.FILES)


def test_heads_have_weights_and_inputs_of_their_own():
    (case,) = (case for case in cases(tiny=True) if case.heads > 1)
    one, other = case.problems()
    assert (one.weights().kernel != other.weights().kernel).any()
    assert (one.inputs() != other.inputs()).any()


# ---------------------------------------------------------------------------- deaths


def fake(deaths):
    """In place of a worker: every case has one row; where `deaths` says so, it dies instead."""
    asked = []

    def rows(request, log, until):
        if "start" in deaths and rivals.TORCH in request["candidates"][0]:
            raise process.Died("at the start")
        asked.append([len(names) for names in request["candidates"]])
        for k, case in enumerate(request["cases"]):
            yield {"begin": k}
            kernels = rivals.PALLAS in request["candidates"][k]
            if (case["cell"], case["dtype"], kernels) in deaths:
                raise process.Died("spoilt")
            yield case | {"candidate": "x", "kernels": kernels}
            yield {"end": k}

    return rows, asked


def measured(monkeypatch, tmp_path, deaths):
    rows, asked = fake(deaths)
    monkeypatch.setattr(process, "rows", rows)
    run = command.Run(tmp_path, True, CELLS, DTYPES, ("long-small",))
    found = list(command.grid(run, time.time() + 100))
    return [
        ("died" if "died" in row else row["kernels"], row.get("cell"), row.get("dtype"))
        for row in found
    ], asked


def test_a_death_costs_the_kernels_of_one_case(monkeypatch, tmp_path):
    found, asked = measured(monkeypatch, tmp_path, {("LSTM", "float32", True)})
    assert found == [
        (True, "LSTM", "bfloat16"),
        ("died", "LSTM", "float32"),
        (False, "LSTM", "float32"),
        (True, "GRU after", "bfloat16"),
        (True, "GRU after", "float32"),
    ]
    assert len(asked) == 2


def test_after_two_deaths_no_kernels_are_asked_for(monkeypatch, tmp_path):
    spoilt = {("LSTM", "bfloat16", True), ("LSTM", "float32", True)}
    found, _ = measured(monkeypatch, tmp_path, spoilt)
    assert found[-2:] == [(False, "GRU after", "bfloat16"), (False, "GRU after", "float32")]
    assert [kernels for kernels, *_ in found].count("died") == 2


def test_what_dies_without_kernels_too_is_left_out(monkeypatch, tmp_path):
    spoilt = {("LSTM", "float32", True), ("LSTM", "float32", False)}
    found, _ = measured(monkeypatch, tmp_path, spoilt)
    died = [row for row in found if row[1:] == ("LSTM", "float32")]
    assert died == [("died", "LSTM", "float32")] * 2
    assert found[-1][1:] == ("GRU after", "float32")


def test_a_death_at_the_start_costs_torch(monkeypatch, tmp_path):
    found, _ = measured(monkeypatch, tmp_path, {"start"})
    assert found[0] == ("died", None, None)
    assert [kernels for kernels, *_ in found[1:]] == [True] * 4


def test_no_time_is_named(tmp_path):
    run = command.Run(tmp_path, True, CELLS, DTYPES, ("long-small",))
    (row,) = command.grid(run, time.time() - 1)
    assert row["skipped"][0] == "LSTM, long-small, bfloat16"
    assert len(row["skipped"]) == 4


@pytest.mark.parametrize(
    ("code", "seconds", "why"),
    [
        ("import time; print('a', flush=True); time.sleep(60)", 100.0, "no sign of life for 3 s"),
        ("import time; print('a', flush=True); time.sleep(60)", 3.0, "out of time"),
        ("print('a'); raise ValueError('told')", 100.0, "ended with 1: ValueError: told"),
    ],
)
@pytest.mark.processes
def test_a_process_that_hangs_or_fails_is_ended(tmp_path, code, seconds, why):
    command, log = [sys.executable, "-c", code], tmp_path / "log"
    lines = process.lines(command, log, time.time() + seconds, silence=3.0 if seconds > 3 else 60.0)
    assert next(lines) == "a\n"
    begin = time.time()
    with pytest.raises(process.Died, match=why):
        next(lines)
    assert time.time() - begin < 30


# --------------------------------------------------------------------------- figures


def row(candidate, median, error=1e-4, **of):
    case = dataclasses.asdict(next(cases(tiny=False)))
    figures = {"median_ms": median, "lower_ms": median, "upper_ms": median}
    figures |= {"compile_seconds": 1.0, "temporary_bytes": 1, "error": error, "tolerance": 1e-2}
    return case | {"stage": "grid", "kind": "train", "candidate": candidate} | figures | of


def test_ratios_are_to_the_fastest_that_is_right():
    rows = [
        row(rivals.SCAN, 9.0),  # measured again below
        row(rivals.SCAN, 3.0),
        row(rivals.PALLAS, 1.0),
        row(rivals.LINEN, 8.0),
        row(rivals.OPTIMISED, 4.0),
        row(rivals.TORCH, 0.5, error=0.1),
        row(rivals.CUDNN, 2.0),
    ]
    text = tables.markdown(rows)
    (ratios,) = (x for x in text.splitlines() if x.startswith("| LSTM, bfloat16, training step"))
    found = [cell.split()[0] for cell in ratios.split("|")[2:-1]]
    assert found == ["**0.75**", "**0.25**", "**0.50**", "**0.33**", "1.50"]
    assert "0.500 (0.500 to 0.500) **!**" in text
    assert "torch: 0.500 ms" in text.split("## Failed or left out")[1]


def test_failures_are_listed():
    failed = {"failed": "ValueError: too wide"}
    rows = [row(rivals.SCAN, 3.0) | {"candidate": rivals.PALLAS} | failed]
    del rows[0]["median_ms"]
    rows += [{"stage": "flag", "variant": "x", "died": "gone"}, {"stage": "a", "skipped": ["b"]}]
    text = tables.markdown(rows).split("## Failed or left out")[1]
    assert "gatedrnn, pallas: failed: ValueError: too wide" in text
    assert "flag, x: died: gone" in text
    assert "skipped: ['b']" in text


def test_kernels_of_a_trace():
    """What a stream of the device ran; the profiler repeats it in other threads."""

    def meta(name, value, tid=0):
        return {"ph": "M", "name": name, "pid": 1, "tid": tid, "args": {"name": value}}

    def ran(name, ts, dur, tid=1, pid=1):
        return {"ph": "X", "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": {}}

    events = [
        meta("process_name", "/device:GPU:0 (pid 1)"),
        meta("thread_name", "Stream #13(Compute)", 1),
        meta("thread_name", "XLA Ops", 2),
        *(ran("gemm", 0, 10), ran("fusion", 20, 30), ran("gemm", 60, 20)),
        *(ran("gemm", 0, 10, tid=2), ran("host", 0, 100, pid=2)),
    ]
    found = kernels.summary(events)
    assert (found["launches"], found["busy_ms"], found["span_ms"]) == (3, 0.06, 0.08)
    assert found["kernels"] == [
        {"name": "gemm", "count": 2, "mean_us": 15.0, "ms": 0.03},
        {"name": "fusion", "count": 1, "mean_us": 30.0, "ms": 0.03},
    ]
