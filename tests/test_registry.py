"""The registry is complete, and whatever runs over cells takes a new row of it up."""

import argparse
import dataclasses
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import toy
from conformance import cases, measure, peers, table

import gatedrnn as gr
from benchmarks import __main__ as benchmarks
from benchmarks import agreement, candidates
from benchmarks.problem import Problem
from benchmarks.settings import Settings
from gatedrnn._app import check
from gatedrnn._registry import cells as registry
from gatedrnn._registry import readme

TESTS = Path(__file__).parent


def is_cell(value):
    """Whether a public name is a class that steps, or composes, and is no layer or protocol."""
    methods = ("step", "carry"), ("compose", "state")
    return (
        inspect.isclass(value)
        and dataclasses.is_dataclass(value)
        and not hasattr(value, "apply")
        and any(all(hasattr(value, name) for name in both) for both in methods)
    )


def test_every_public_cell_has_a_row():
    public = {getattr(gr, name) for name in gr.__all__}
    assert {row.cell for row in registry.ROWS} == set(filter(is_cell, public))


@pytest.mark.parametrize("row", registry.ROWS, ids=lambda row: row.name)
def test_the_cells_of_a_row(row):
    """Each value of each option is in the sample, which is a part of all; few are of the class."""
    assert set(row.sample()) <= set(row.every())
    assert all(isinstance(cell, row.cell) for cell in (*row.every(), *row.few()))
    if row.enumerated:
        for name, values in row.options().items():
            assert {getattr(cell, name) for cell in row.sample()} >= set(values), name


def test_a_field_without_values_is_named():
    """Nothing is left out because nobody said what it could be."""

    @dataclasses.dataclass(frozen=True)
    class Leaky:
        features: int
        rate: float = 0.1

    row = dataclasses.replace(toy.ROW, cell=Leaky)
    with pytest.raises(TypeError, match=r"values: got none of Leaky.rate, expected some"):
        row.every()
    assert [cell.rate for cell in dataclasses.replace(row, values={"rate": (0.5,)}).every()] == [
        *(0.1, 0.5)
    ]
    with pytest.raises(ValueError, match=r"crossed: got \['pase'\], expected some of"):
        dataclasses.replace(toy.ROW, crossed=("pase",)).sample()


def test_no_two_cells_have_one_name():
    with pytest.raises(ValueError, match=r"has the name of LSTM\(4\)"):
        registry.named((toy.ROW,), lambda row: (gr.LSTM(4), gr.LSTM(5)))


def test_a_subclass_has_the_equations_of_its_class_and_others_have_none():
    assert registry.row_of(type("Mine", (gr.GRU,), {})(4)).cell is gr.GRU
    with pytest.raises(KeyError, match="expected one of Elman, Jordan"):
        registry.row_of(toy.Toy(4))


# A new row --------------------------------------------------------------------------------------

SAMPLE = ["Toy", "Toy pace=fast", "Toy use_bias=False"]
NAMES = [SAMPLE[0], SAMPLE[2], SAMPLE[1], "Toy pace=fast use_bias=False"]


@pytest.fixture
def row(monkeypatch):
    """One more row."""
    monkeypatch.setattr(registry, "ROWS", (*registry.ROWS, toy.ROW))
    return toy.ROW


def checked(capsys):
    status = check.run(argparse.Namespace(cell="toy"))
    return status, capsys.readouterr().out.splitlines()


def test_the_command_checks_it(row, capsys):
    status, lines = checked(capsys)
    assert [line[: line.index("  ")] for line in lines if line.startswith("Toy")] == NAMES
    assert (status, lines[-1]) == (0, "4 of 4 exact")


def test_the_command_finds_other_equations(monkeypatch, capsys):
    def halved(*known):
        made = toy.equations(*known)
        return made._replace(output=made.output / 2)

    wrong = dataclasses.replace(toy.ROW, step=halved, examples=(toy.Toy(4),), enumerated=False)
    monkeypatch.setattr(registry, "ROWS", (wrong,))
    status, lines = checked(capsys)
    assert lines[-3].endswith("   WRONG")
    assert float(lines[-3].split()[1]) == pytest.approx(1.0)
    assert (status, lines[-1]) == (1, "0 of 1 exact")


@pytest.mark.parametrize("name", peers.NAMES)
def test_every_library_refuses_it_by_name(row, name):
    """In a row of the conformance table each: a sample, and several layers."""
    peer = table.peer_named(name)
    for module in peer.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    found = {case: nets for case, nets in cases.networks().items() if case.startswith("Toy")}
    assert list(found) == [*SAMPLE, "Toy, 3 layers"]
    for nets in found.values():
        assert measure.row(peer, *nets) == {"refused": "there is no Toy cell"}


def test_it_is_timed(row):
    """Ours and `lax.scan` agree, there is a floor, and no rival has it."""
    assert "Toy" in {of["cell"] for of, _ in Settings(tiny=True).problems()}
    assert benchmarks._parser().parse_args(["grid", "--cells", "Toy"]).cells == ["Toy"]
    with jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the libraries
        builders, _ = candidates.available()
        made = {name: build(Problem("Toy", 7, 3, 4, 5)) for name, build in builders.items()}
        assert {name for name, found in made.items() if found} == {"gatedrnn", "lax.scan", "floor"}
        ours, theirs, floor = (made[name]["train"]() for name in ("gatedrnn", "lax.scan", "floor"))
        assert agreement.check([ours, theirs], 1e-4)
        assert np.isfinite(floor.run()[0])


def test_the_readme_lacks_it(row):
    """Until the table is written anew."""
    text = (TESTS.parent / "README.md").read_text()
    line = "| `gr.Toy` | `h' = h + α (n − h)` | `features`; "
    line += '`pace` `"slow"`, `"fast"`; `use_bias` True, False |\n'
    assert line not in text
    assert line in readme.replaced(text)
    assert readme.replaced(text).replace(line, "") == text


PLUGIN = """
def pytest_configure(config):
    import toy
    from gatedrnn._registry import cells
    cells.ROWS += (toy.ROW,)
"""


def run_tests_of_it(tmp_path, *arguments):
    """What pytest says of the tests that have its name, in a process where it is a row."""
    (tmp_path / "with_toy.py").write_text(PLUGIN)
    options = ("-o", "addopts=", "-p", "with_toy", "-k", "Toy", *arguments)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.processes
def test_the_tests_of_equations_and_rules_run_over_it(tmp_path):
    out = run_tests_of_it(tmp_path, "-v", "tests/test_cells.py", "tests/test_rules.py")
    passed = re.findall(r"::(test_\w+)\[(Toy[^\]]*)\] PASSED", out)
    of = {test: [case for name, case in passed if name == test] for test, _ in passed}
    assert len(of["test_step_is_the_equations"]) == 3 * len(NAMES)
    assert of["test_rule_is_autodiff_and_finite_differences"] == NAMES
    assert of["test_reverse_over_reverse_is_finite_differences"] == SAMPLE
    assert of["test_forward_over_reverse_is_autodiff"] == SAMPLE
    assert of["test_only_the_arrays_that_the_options_name_exist"] == NAMES
    assert of["test_outputs_are_in_the_dtype_of_the_input_and_close_to_float64"]
    assert of["test_recurrent_kernels_start_orthogonal_per_gate"] == ["Toy"]
    (bad,) = (cases for test, cases in of.items() if test.startswith("test_a_bad_value"))
    assert "Toy pace=no" in bad


TAKEN_UP = {
    "test_benchmarks_candidates.py": "test_candidates_agree",
    "test_compiled.py": "test_data_parallel",
    "test_conformance.py": "test_no_row_is_worse_than_the_committed_one",
    "test_engine.py": "test_rule_is_autodiff_with_everything_on",
    "test_plan.py": "test_no_step_lays_out_a_weight",
    "test_regularisation.py": "test_rule_is_autodiff_with_masks",
    "test_flags.py": "test_the_numbers_are_the_same",
}


@pytest.mark.processes
def test_all_other_tests_take_it_up(tmp_path):
    files = [f"tests/{name}" for name in TAKEN_UP]
    out = run_tests_of_it(tmp_path, "--collect-only", "-q", *files)
    for name, test in TAKEN_UP.items():
        assert re.search(rf"{name}::{test}\[.*Toy.*\]", out), name
