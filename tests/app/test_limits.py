"""Settings that ask for more than there is: each is refused in one line, and nothing hangs."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.monitoring
import msgspec
import pytest

from gatedrnn._app import memory, record, run_folder, tasks
from gatedrnn._app.config import Settings

from . import tiny
from .runs import TRAIN

GB = 2**30


def integers(table, prefix=""):
    """Every integer setting, and every integer within one, by dotted key."""
    for name in table.__struct_fields__:
        value = getattr(table, name)
        if isinstance(value, Settings):
            yield from integers(value, f"{prefix}{name}.")
        elif type(value) is int:
            yield f"{prefix}{name}", "{}"
        elif isinstance(value, tuple) and all(type(v) is int for v in value):
            yield f"{prefix}{name}", f"[{value[0]}, {{}}]"


def cases(name):
    """Each integer setting of a task with each of two large numbers."""
    Path("tiny.toml").write_text(tiny.configuration(name), encoding="utf-8")
    for key, form in integers(tasks.load("tiny.toml")):
        for number in (2**31 - 1, 10**12):
            yield f"{key}={form.format(number)}"


CHILD = """
import json, resource, signal, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from gatedrnn._app import cli, learning
class Enough(Exception): pass
real = learning.train_step
def step(*args, **kwargs):
    real(*args, **kwargs)
    raise Enough
step.lower = real.lower
learning.train_step = step
cli._leave = sys.exit
for override in json.loads(sys.argv[2]):
    signal.alarm(60)
    print("\\n>", override, file=sys.stderr, flush=True)
    try:
        code = cli.main(["train", "tiny.toml", "--set", override])
    except Enough:
        code = 0
    print("\\n<", code, file=sys.stderr, flush=True)
"""


@pytest.mark.processes
@pytest.mark.parametrize("name", tiny.TASKS)
def test_every_integer_is_refused_or_runs(workplace, pytestconfig, name):
    """In a process that has 8 GB: a number that is refused names the setting and the number."""
    overrides = list(cases(name))
    environment = os.environ | {"PYTHONPATH": str(pytestconfig.rootpath)}
    arguments = (sys.executable, "-c", CHILD, str(8 * GB), json.dumps(overrides))
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    refused = 0
    for part in done.stderr.split("\n> ")[1:]:
        override, *lines = part.splitlines()
        code = int(lines[-1].removeprefix("< "))
        if code:
            refused += 1
            said = [line for line in lines[:-1] if line]
            assert (code, len(said)) == (2, 1), part
            key, _, value = override.partition("=")
            assert key in said[0], part
            assert "," in value or value in said[0], part
    print(f"\n{name}: {len(overrides)} settings, {refused} refused")
    assert refused >= len(overrides) // 2


@pytest.fixture
def places(workplace):
    """Names that cannot be read to an end, or not at all, with what is said of each."""
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("large").touch()
    os.truncate("large", 2**40)  # of holes
    Path("round").symlink_to("round")
    irregular = "it is no regular file"
    return {
        **{"/dev/zero": irregular, "/dev/urandom": irregular, "pipe": irregular},
        **{"folder": "Is a directory", "large": "bytes, expected at most"},
        **{"round": "Too many levels of symbolic links", "none": "No such file"},
    }


def test_every_path_is_read_within_a_bound(refuses, places):
    for path, words in places.items():
        setting = f"data.path={path}"
        refuses(*TRAIN, "--set", setting, words=(f"data.path: cannot read {path}", words))
        if path in ("folder", "none"):  # no file: a name, which no configuration has
            refuses("train", path, words=(f"config: got '{path}', expected a TOML file or one",))
        whole = os.path.abspath(path)
        refuses("train", whole, words=(f"cannot read the configuration {whole}", words))
    for path in set(places) - {"none"}:
        refuses(*TRAIN, "--set", f"run.folder={path}", words=(f"run.folder: {path} exists",))


def test_files_of_a_run_are_read_within_a_bound(command, refuses, places):
    assert command(*TRAIN, "--set", "train.steps=1").code == 0
    for name in ("run.json", "config.toml", "data.json"):
        kept = Path("runs/tiny", name)
        content = kept.read_bytes()
        for path, words in places.items():
            if path != "none":
                kept.unlink()
                kept.symlink_to(Path(path).absolute())
                refuses("sample", "runs/tiny", words=("cannot read", name, words))
        kept.unlink()
        kept.write_bytes(content)
    assert command("sample", "runs/tiny", "--length", "1").code == 0


def test_metrics_of_any_length_are_read(command, monkeypatch):
    """As far as the run has committed them; only a regular file is read."""
    monkeypatch.setattr(run_folder, "MOST", 2**10)
    assert command(*TRAIN, "--set", "train.steps=1").code == 0
    kept = Path("runs/tiny/metrics.jsonl")
    line = next(line for line in kept.read_text().splitlines() if '"train"' in line)
    with open(kept, "a") as file:
        file.write(f"{line}\n" * 100)
    found = run_folder.find("runs/tiny")
    record.write(found.path, msgspec.structs.replace(found.record, metrics=kept.stat().st_size))
    os.truncate(kept, 2**40)  # of holes
    assert command("eval", "runs/tiny").code == 0
    assert command(*TRAIN, "--resume", "--set", "train.steps=2").code == 0
    assert kept.stat().st_size < 2**20
    kept.unlink()
    os.mkfifo(kept)
    outcome = command("eval", "runs/tiny")
    assert (outcome.code, outcome.out) == (2, "")
    assert "metrics.jsonl: it is no regular file" in outcome.err


def test_a_step_that_takes_more_than_there_is(refuses, monkeypatch):
    """Not the parameters: what the compiler says that a step needs besides."""
    monkeypatch.setattr(memory, "available", lambda: 200_000)
    large = ("--set", "data.window=200", "--set", "data.validation_fraction=0.45")
    refuses(
        *TRAIN, *large, words=("the arrays of a step on each of 4 devices take 0.0 GB at least",)
    )


def test_the_step_that_was_measured_is_not_compiled_again(command):
    compiled = []

    def note(event, seconds, **what):
        if event.endswith("backend_compile_duration"):
            compiled.append(what.get("fun_name"))

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        assert command(*TRAIN, "--set", "train.steps=3").code == 0
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert compiled.count("jit(train_step)") == 1


def test_memory_is_the_least_of_the_limits(monkeypatch, tmp_path):
    whole = memory.available()
    assert whole <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "CGROUP", limit)
    for text, expected in (("max\n", whole), ("12345\n", 12345)):
        limit.write_text(text)
        assert memory.available() == expected
    limit.unlink()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (777, 888))
    assert memory.available() == 777
    with pytest.raises(memory.CommandError, match=r"^a: got 9000; with that, they take .* GB"):
        memory.demand("they", 778, {"a": 9000, "b": 8})
    memory.demand("they", 777, {"a": 9000})
