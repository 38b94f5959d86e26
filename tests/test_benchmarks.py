"""The benchmark command: what it writes, its options, its arithmetic. No test is about speed."""

import dataclasses
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

import gatedrnn as gr
from benchmarks import __main__ as command
from benchmarks import accelerators, candidates, picture, profiling, report, store, targets, timing
from benchmarks import markdown as md
from benchmarks.measure import DISAGREES, measure
from benchmarks.problem import GRID, REFUSED, Problem, cells
from benchmarks.program import Program, Source
from benchmarks.settings import Settings
from benchmarks.tables import HERE, TABLES, cores, launches
from benchmarks.tables.variants import unrolled
from gatedrnn._registry.cells import over_time

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG\r\n"
QUICK = Settings(seconds=0.001, tiny=True)


def run(*arguments):
    """The command in a process of its own, without the flags and devices of the tests."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
def test_the_command(tmp_path):
    """Tables run one by one land in one file; a part that is run again replaces just its rows."""
    few = ("--candidates", "gatedrnn", "lax.scan", "floor", "--tiny", "--out", tmp_path)
    done = run("grid", *few, "--cells", "Elman", "GRU before")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "cpu-tiny.json"
    before = json.loads(path.read_text())["tables"]["grid"]
    assert [row["of"] for row in before["rows"]] == [
        {"cell": cell, "point": "long-small", "kind": kind}
        for cell in ("Elman", "GRU before")
        for kind in ("forward", "train")
    ]
    for row in before["rows"]:
        assert set(row["candidates"]) == {"gatedrnn", "lax.scan", "floor"}
        assert row["failed"] == {}
        for figures in row["candidates"].values():
            assert 0 < figures["lower"] <= figures["median"] <= figures["upper"]
            assert figures["rounds"] > 0
            assert figures["compile_seconds"] > 0
            assert figures["temporary_bytes"] >= 0
        assert "[grid 1/4] Elman, long-small, forward" in done.stderr
    (environment,) = before["environments"]
    assert environment["cores"] > 0
    assert environment["versions"]["jax"]

    done = run("grid", *few, "--cells", "Elman")
    assert done.returncode == 0, done.stderr
    done = run("length", "compile", "--tiny", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    data = json.loads(path.read_text())
    assert set(data["tables"]) == {"grid", "length", "compile"}
    after = data["tables"]["grid"]
    assert [row["environment"] for row in after["rows"]] == [1, 1, 0, 0]
    assert after["rows"][2:] == before["rows"][2:]
    assert not list(tmp_path.glob("*.new"))
    (longest,) = (row for row in data["tables"]["length"]["rows"] if "process" in row["of"])
    assert longest["candidates"]["boundaries"]["output_bytes"] > 0

    text = path.with_suffix(".md").read_text()
    for heading in ("## Targets", "### Elman, training step", "## Length", "## Compilation"):
        assert heading in text
    assert path.with_suffix(".png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "expected some of grid"),
        (["length", "--cells", "LSTM"], "--cells does not apply to length"),
        (["grid", "dtype", "--candidates", "torch"], "--candidates does not apply to dtype"),
        (["compile", "--seconds", "1"], "--seconds does not apply to compile"),
        (["grid", "--seconds", "0"], "--seconds"),
        (["grid", "--tiny", "--points", "speech"], "with --tiny there are long-small"),
        (["report", "nowhere.json"], "nowhere.json"),
    ],
)
def test_nothing_is_accepted_and_ignored(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_every_cell_is_timed_or_refused_by_name():
    """A cell around a cell has no sizes of its own: it cannot but be refused."""
    names = {row.name for row in over_time()}
    assert set(REFUSED) <= names
    assert all(row.timed() for row in over_time() if row.name not in REFUSED)


def test_every_table_says_which_rows_it_has():
    """Full size: no two alike, and small enough an identity to be written to JSON."""
    for name, table in TABLES.items():
        rows = [json.dumps(task.of) for task in table.tasks(Settings())]
        assert len(rows) == len(set(rows)) > 0, name
    assert len(list(TABLES["grid"].tasks(Settings()))) == 2 * len(cells()) * len(GRID)


# --------------------------------------------------------------------------------- figures


def fabricated(ours=0.5):
    """A whole grid in which ours takes `ours` of what each rival takes."""
    others = {"flax linen": 1.0, "flax nnx": 2.0, "torch": 1.0, "floor": 0.4}
    rows = []
    for cell, point, kind in itertools.product(cells(), GRID, ("forward", "train")):
        times = {"gatedrnn": ours} | others
        figures = {
            name: {"median": time, "compile_seconds": time, "temporary_bytes": int(1e6 * time)}
            for name, time in times.items()
            if cell != "GRU before" or name in ("gatedrnn", "flax linen", "floor")
        }
        of = {"cell": cell, "point": point, "kind": kind}
        rows.append({"of": of, "candidates": figures, "failed": {}, "environment": 0})
    versions = {"jax": "0.10.2", "torch": None}
    where = {"date": "2026-01-01", "device": "cpu", "cpu": "a cpu", "cores": 2, "os": "an os"}
    where |= {"python": "3.11", "XLA_FLAGS": "", "versions": versions, "commit": "abc+dirty"}
    grid = {"environments": [where], "rows": rows}
    return {"device": "cpu", "tiny": False, "tables": {"grid": grid}}


def verdicts(data):
    return {target.name: target.verdict for target in targets.targets(data)}


def test_targets():
    data = fabricated(0.5)
    found = {target.name: target for target in targets.targets(data)}
    lstm = found["training step, LSTM: time over the fastest JAX rival's"]
    assert list(lstm.ratios.values()) == [0.5] * len(GRID)
    assert lstm.verdict == "met"
    memory = found["training step: temporary memory over the leanest flax's"]
    assert (max(memory.ratios.values()), memory.verdict) == (0.5, "met")
    floor = found["training step: time over the floor's, the products alone"]
    assert md.geometric_mean(floor.ratios.values()) == pytest.approx(1.25)
    assert floor.verdict == "met"
    assert found["gr.repeat of 8: compilation over one layer's"].verdict == "not measured"

    # the mean: met at 0.70 for a GRU, not at 0.65 for an LSTM
    found = verdicts(fabricated(0.66))
    assert found["training step, LSTM: time over the fastest JAX rival's"] == "not met"
    assert found["training step, GRU after: time over the fastest JAX rival's"] == "met"

    # one point alone that is too slow, though the mean is not
    name = "training step, Elman: time over the fastest JAX rival's"
    rows = data["tables"]["grid"]["rows"]
    worst = next(r for r in rows if r["of"] == {"cell": "Elman", "point": "large", "kind": "train"})
    worst["candidates"]["gatedrnn"]["median"] = 0.96
    assert verdicts(data)[name] == "not met"
    # and a point that is missing
    rows.remove(worst)
    assert verdicts(data)[name] == "incomplete"


def test_all_cores_are_the_faster_way_to_divide():
    """Of ours and of the fastest flax, each by default and divided."""
    times = {"gatedrnn": 2.0, "flax linen": 3.0, "flax nnx": 4.0, "torch": 5.0}
    ways = {"jit": (1.0, 6.0, 2.0), "shard_map": (1.5, 5.0, 3.0)}
    libraries = [name for name in times if name != "torch"]
    for how, of in ways.items():
        times |= {cores.divided(name, how): t for name, t in zip(libraries, of, strict=True)}
    row = {"of": {}, "candidates": {name: {"median": time} for name, time in times.items()}}
    assert cores.ratios(row) == pytest.approx((1 / 2, 2 / 3, 2 / 3, 1 / 2, 1 / 5))


def test_geometric_mean_and_numbers():
    assert md.geometric_mean([0.5, 2.0, None]) == pytest.approx(1.0)
    assert md.geometric_mean([]) is None
    assert [md.number(v) for v in (0.01234, 1.234, 12.34, 1234.5, 0, None)] == [
        *("0.0123", "1.23", "12.3", "1,234", "0", "–"),
    ]
    assert [md.ratio(v) for v in (0.5, 1.0, None)] == ["**0.50**", "1.00", "–"]


def test_report_again_from_the_figures(tmp_path):
    data = fabricated()
    rows = data["tables"]["grid"]["rows"]
    rows[0]["failed"] = {"keras": "ModuleNotFoundError: keras is not installed"}
    rows[1] = {"of": rows[1]["of"], "error": "ValueError: no", "environment": 0}
    path = tmp_path / "some-gpu.json"
    path.write_text(json.dumps(data))
    assert command.main(["report", str(path)]) == 0
    text = path.with_suffix(".md").read_text()
    assert (
        "| pixels | 500 | **0.50** | **0.25** | **0.50** | 1.25 | **0.50** (flax linen) |" in text
    )
    first = next(iter(cells()))
    assert (
        f"keras: ModuleNotFoundError: keras is not installed ({first}, long-small, forwar" in text
    )
    assert f"ValueError: no ({first}, long-small, train)" in text
    assert "abc+dirty" in text
    assert path.with_suffix(".png").read_bytes().startswith(PNG)
    written = path.with_suffix(".md").stat().st_size, text
    report.render(path)
    assert written == (path.with_suffix(".md").stat().st_size, path.with_suffix(".md").read_text())


def test_a_whole_run_drops_rows_that_are_no_more(tmp_path):
    kept = store.Store(tmp_path / "cpu.json", "cpu", tiny=False)
    for k in (1, 2, 3):
        kept.put("sizes", {"of": {"H": k}}, {"date": k})
    kept.keep("sizes", [{"H": 3}, {"H": 1}])
    held = store.load(tmp_path / "cpu.json")["tables"]["sizes"]
    assert held["rows"] == [{"of": {"H": 3}, "environment": 1}, {"of": {"H": 1}, "environment": 0}]
    assert held["environments"] == [{"date": 1}, {"date": 3}]
    (tmp_path / "cpu.json").write_text("[]")
    with pytest.raises(ValueError, match="no figures"):
        store.Store(tmp_path / "cpu.json", "cpu", tiny=False)


# ---------------------------------------------------------------------------------- timing


class Clock:
    """Time that passes only when a program runs."""

    def __init__(self, monkeypatch):
        self.now, self.ran = 0.0, []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def program(self, name, seconds, answer=1.0):
        def run():
            self.now += seconds
            self.ran.append(name)

        return Program(name, run, lambda: {"outputs": np.array([answer])})


def test_rounds(monkeypatch):
    """All run in every round, in an order that varies; what is slow runs the fewest times."""
    clock = Clock(monkeypatch)
    programs = [clock.program("a", 1.0), clock.program("b", 2.0), clock.program("slow", 9.0)]
    times = timing.interleaved(programs, seconds=100.0, fewest=4)
    rounds = [tuple(clock.ran[3 * k : 3 * k + 3]) for k in range(5)]  # the first is the warm-up
    assert all(sorted(each) == ["a", "b", "slow"] for each in rounds)
    assert len(set(rounds[1:])) > 1
    assert times["slow"] == (9.0, 9.0, 9.0, 4)
    assert times["a"].median == 1.0
    assert times["a"].rounds == times["b"].rounds > 4
    assert clock.now < 100 + 12 + 3 + 1


def test_what_fails_or_disagrees_is_named_and_not_timed(monkeypatch):
    clock = Clock(monkeypatch)

    def broken():
        raise RuntimeError("no such cell\nand more")

    def check(programs):
        first, other = (program.answer()["outputs"] for program in programs)
        if first != other:
            raise ValueError("off by a lot")
        return {programs[1].name: 0.0}

    huge = clock.program("huge", 1.0)
    huge.temporary_bytes = 2**60
    builds = [
        ("ours", lambda: clock.program("ours", 1.0)),
        ("broken", broken),
        ("wrong", lambda: clock.program("wrong", 1.0, answer=2.0)),
        ("same", lambda: clock.program("same", 1.0)),
        ("none", lambda: None),
        ("huge", lambda: huge),
    ]
    row = measure(builds, QUICK, check)
    assert set(row["candidates"]) == {"ours", "same"}
    assert row["failed"].keys() == {"broken", "wrong", "huge"}
    assert row["failed"]["broken"] == "RuntimeError: no such cell"
    assert row["failed"]["wrong"] == f"{DISAGREES}: off by a lot"
    assert "GB" in row["failed"]["huge"]
    assert row["errors"] == {"same": 0.0}
    assert measure([("broken", broken)], QUICK)["candidates"] == {}


def test_the_profile_knows_the_phases():
    """Each of the five, and gates computed again, is found in what runs; no loop counts twice."""
    problem = Problem("LSTM", 12, 3, 4, 8)
    _, build = unrolled("LSTM", problem, bptt=gr.BPTT(save="carries"))
    figures = profiling.profile(build(), runs=2)
    assert set(figures["phases"]) == set(profiling.PARTS)
    assert all(seconds > 0 for seconds in figures["phases"].values())
    assert 0 < figures["products"] < sum(figures["phases"].values())
    events = [
        {"ph": "X", "dur": 5, "args": {"hlo_op": "while.1"}},
        {"ph": "X", "dur": 2, "args": {"hlo_op": "dot.1"}},
        {"ph": "X", "dur": 3, "args": {"hlo_op": "add.1"}},
        {"ph": "M", "args": {"hlo_op": "dot.1"}},
    ]
    names = {"dot.1": "jit(f)/transpose(jvp(jit(run)))/recur/dot_general", "add.1": "jit(f)/add"}
    phases, products = profiling._parts(events, names)
    assert phases == pytest.approx({"recompute": 2e-6, "moving": 3e-6})
    assert products == pytest.approx(2e-6)


# --------------------------------------------------------------- devices that are not here


def test_what_is_not_installed_is_named(monkeypatch, capsys):
    """And the table is no part of those that are measured here."""
    assert "launches" in TABLES
    assert "launches" not in HERE
    monkeypatch.setattr(accelerators, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        command.main(["launches"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "launches: NVIDIA H100: got no jax_plugins.xla_cuda12 or jax_plugins.xla_cuda13" in said
    assert accelerators.EXTRA in said
    with pytest.raises(ModuleNotFoundError, match="TPU v5e: got no libtpu"):
        accelerators.V5E.devices()


def test_too_many_devices_are_refused(monkeypatch):
    monkeypatch.setattr(accelerators, "find_spec", lambda name: True)
    described = dataclasses.replace(
        accelerators.V5E, describe=lambda count: SimpleNamespace(devices=[0, 1, 2, 3])
    )
    assert described.devices(3) == [0, 1, 2]
    with pytest.raises(ValueError, match="count: got 5, expected at most 4 of TPU v5e"):
        described.devices(5)


def test_a_device_is_described_as_xla_reads_it():
    facts = {"info": {"cores": 132, "rate": 1.98}, "name": "NVIDIA H100"}
    assert accelerators._text_proto(facts) == 'info { cores: 132 rate: 1.98 } name: "NVIDIA H100"'


def test_a_described_program_keeps_no_values():
    """Shapes, dtypes and places, for all arguments or for each."""
    (here,) = jax.devices()[:1]
    where, other = SingleDeviceSharding(here), SingleDeviceSharding(jax.devices()[1])
    source = Source("f", lambda a, b: a["x"] + b, ({"x": np.ones(3, np.float32)}, jnp.ones((2, 3))))
    a, b = accelerators.described(source, (where, other)).arguments
    assert a == {"x": jax.ShapeDtypeStruct((3,), np.float32, sharding=where)}
    assert b == jax.ShapeDtypeStruct((2, 3), np.float64, sharding=other)
    assert accelerators.described(source, where).arguments[1].sharding == where


def test_operations_are_counted_and_nothing_is_run(monkeypatch):
    """For the CPU here; a candidate without its library is named."""
    monkeypatch.setattr(launches, "compiled_for", lambda target, source: source())
    find = importlib.util.find_spec
    monkeypatch.setattr(
        candidates, "find_spec", lambda name: None if name == "equinox" else find(name)
    )
    tasks = launches.tasks(Settings(tiny=True, cells=("Elman",), candidates=("gatedrnn", "floor")))
    first = next(tasks)
    assert first.of == {
        "target": "NVIDIA H100",
        "cell": "Elman",
        "point": "long-small",
        "kind": "forward",
    }
    (figures,) = first.measure()["candidates"].values()  # the floor is no candidate here
    assert set(figures) == {"operations", "compile_seconds", "temporary_bytes"}
    assert figures["operations"] >= 1
    row = launches._measure(
        accelerators.H100,
        ("lax.scan", "equinox"),
        Problem("Elman", 4, 2, 3, 2),
        "train",
        True,
    )
    assert set(row["candidates"]) == {"lax.scan"}
    assert row["failed"] == {"equinox": "ModuleNotFoundError: equinox is not installed"}


def counted(ours):
    """Rows of both devices at *speech*, where the leanest flax takes 40 and another library 16."""
    counts = {"gatedrnn": ours, "flax linen": 50.0, "flax nnx": 40.0, "haiku": 16.0}
    figures = {
        name: {"operations": count, "compile_seconds": 1.0, "temporary_bytes": 10**6}
        for name, count in counts.items()
    }
    kinds = itertools.product(accelerators.TARGETS.values(), ("LSTM", "GRU after"), ("train",))
    rows = [
        {
            "of": {"target": target.name, "cell": cell, "point": "speech", "kind": kind},
            "candidates": figures,
            "failed": {},
            "environment": 0,
        }
        for target, cell, kind in kinds
    ]
    data = fabricated()
    table = {"environments": data["tables"]["grid"]["environments"], "rows": rows}
    return data | {"device": "devices that are described", "tables": {"launches": table}}


def test_targets_of_operations():
    names = [
        "NVIDIA H100: operations of a step, LSTM at speech, over 9",
        "NVIDIA H100: operations of a step, GRU after, over the least of flax",
        "TPU v5e: operations of a step, LSTM at speech, over 10",
        "TPU v5e: operations of a step, any cell, over the least of flax",
    ]
    assert [verdicts(counted(9))[name] for name in names] == [
        *("met", "incomplete", "met", "incomplete")
    ]
    ten = verdicts(counted(10))
    assert (ten[names[0]], ten[names[2]]) == ("not met", "met")
    found = {target.name: target for target in targets.targets(counted(30))}
    assert [found[name].verdict for name in names] == [*["not met"] * 3, "incomplete"]
    assert list(found[names[1]].ratios.values()) == [0.75]
    assert verdicts(counted(41))[names[3]] == "not met"


def test_the_report_of_operations(tmp_path, monkeypatch):
    path, data = tmp_path / "launches.json", counted(25.0)
    path.write_text(json.dumps(data))
    monkeypatch.setattr(picture, "_measured", None)  # the picture of times
    report.render(path)
    _, panels, _ = picture._launches(data["tables"]["launches"]["rows"])
    assert [panel.get_title(loc="left") for panel in panels] == [
        f"{target.name}, {cell}"
        for target in accelerators.TARGETS.values()
        for cell in ("LSTM", "GRU after")
    ]
    dots = {line.get_label(): line.get_xdata() for line in panels[0].lines}
    assert dots["flax linen"] == [2.0]
    text = path.with_suffix(".md").read_text()
    assert "# Benchmarks on devices that are described" in text
    assert "no figure is a time" in text
    assert "### TPU v5e, training step" in text
    assert "| LSTM, speech | 25 | 50 | 40 | 16 | 1.56 (haiku) |" in text
    assert "training step, LSTM: time over" not in text
    assert path.with_suffix(".png").read_bytes().startswith(PNG)
