"""What belongs to a run, what to its user, and what to another process."""

import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import msgspec
import pytest

from gatedrnn._app import files, leftovers, lock, record, run_folder
from gatedrnn._app.errors import CommandError

from . import kills, tiny
from .runs import RUN, TRAIN, at_step, checkpoint, interrupt

EXPORT = [("export", "--to", "m.onnx")] if importlib.util.find_spec("onnx") else []
SHORT = (*TRAIN, "--set", "train.steps=2")


@pytest.fixture
def pictured(command):
    """A run of a task that draws a picture."""
    Path("tiny.toml").write_text(tiny.configuration("adding"), encoding="utf-8")
    assert command(*SHORT).code == 0
    return command


def test_a_folder_without_our_mark_is_no_run(refuses):
    (RUN / "pictures").mkdir(parents=True)
    (RUN / "pictures/holiday.jpg").write_text("photo")
    for name in ("config.toml", "data.json"):
        (RUN / name).write_text("mine")
    older = "runs of earlier versions are neither read nor replaced"
    refuses(*TRAIN, "--overwrite", words=("is not to be overwritten", older, "config.toml"))
    refuses(*TRAIN, "--resume", words=("runs/tiny holds no run", older))
    for command in (("eval",), ("sample",), *EXPORT):
        refuses(command[0], "runs/tiny", *command[1:], words=("runs/tiny holds no run", older))


@pytest.mark.parametrize(
    "name",
    [
        "thesis.tex",
        "pictures/holiday.jpg",
        "best/notes.txt",
        "latest/2/mine",
        "latest/7/mine",
        ".hidden",
        ".thesis.tex.0123abcd.part",
        "empty/",
    ],
)
def test_what_a_user_put_into_a_run_stays(pictured, refuses, name):
    mine = RUN / name
    if name.endswith("/"):
        mine.mkdir()
    else:
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("years of work")
    refuses(*TRAIN, "--overwrite", words=("runs/tiny is not to be overwritten", name.rstrip("/")))
    assert pictured(*TRAIN, "--resume", "--set", "train.steps=4").code == 0
    assert pictured("eval", "runs/tiny").code == 0
    assert mine.is_dir() or mine.read_text() == "years of work"


def test_folders_of_checkpoints_on_another_disk_go_on(pictured, refuses):
    """The user moved them, and put links in their place."""
    links = [RUN / name for name in ("best/GRU", "best", "latest", "pictures")]
    for number, link in enumerate(links):
        disk = Path(f"disk/{number}").absolute()
        disk.parent.mkdir(exist_ok=True)
        os.rename(link, disk)
        link.symlink_to(disk)
    assert checkpoint("best/GRU")
    for steps in (4, 6):
        assert pictured(*TRAIN, "--resume", "--set", f"train.steps={steps}").code == 0
        assert pictured("eval", "runs/tiny").code == 0
    assert os.listdir("disk/2") == ["6"]
    assert len(os.listdir("disk/0")) == 1
    assert Path("disk/3/predictions.png").exists()
    refuses(*TRAIN, "--overwrite", words=("is not to be overwritten", "best, best/GRU, latest, …"))
    assert all(link.is_symlink() for link in links)


def test_links_in_the_place_of_files_stay(pictured):
    names = ("run.json", "metrics.jsonl", "curve.png", "pictures/predictions.png")
    Path("disk").mkdir()
    for name in names:
        target = Path("disk", Path(name).name).absolute()
        os.rename(RUN / name, target)
        (RUN / name).symlink_to(target)
    assert pictured(*TRAIN, "--resume", "--set", "train.steps=4").code == 1
    assert run_folder.find(RUN).record.latest == 4
    assert "pictures/predictions.png in " in pictured("eval", "runs/tiny").err
    assert all((RUN / name).is_symlink() for name in names)


def test_what_a_user_puts_in_while_the_run_is_replaced_is_kept_and_named(pictured, monkeypatch):
    def put(loss):
        (RUN / "thesis.tex").write_text("years of work")
        return loss

    at_step(monkeypatch, 1, put)
    outcome = pictured(*SHORT, "--overwrite")
    assert outcome.code == 0
    (kept,) = Path("runs").glob(".tiny.*.new")
    assert f"gatedrnn: {kept.absolute()} keeps what is left of the older run" in outcome.err
    assert kills.tree(kept) == {"thesis.tex": b"years of work"}
    assert f"{kept} is left as it is: a run that was ended early" in pictured(*TRAIN).err
    assert kills.tree(kept) == {"thesis.tex": b"years of work"}


def test_a_picture_of_the_users_is_not_replaced(pictured):
    ours = RUN / "pictures/predictions.png"
    assert pictured(*SHORT, "--overwrite", "--set", "run.folder=runs/other").code == 0
    for path in (RUN, Path("runs/other")):
        found = run_folder.find(path)
        record.write(found.path, record.Record(**{**vars_of(found.record), "files": record.ALWAYS}))
    ours.write_text("mine")
    outcome = pictured("eval", "runs/tiny")
    assert outcome.code == 1
    assert "pictures/predictions.png in " in outcome.err
    assert "left as it is, since this run did not write it" in outcome.err
    assert ours.read_text() == "mine"
    ours.unlink()
    assert pictured("eval", "runs/tiny").code == 0
    assert ours.read_bytes().startswith(b"\x89PNG")


def vars_of(kept):
    return {name: getattr(kept, name) for name in kept.__struct_fields__}


def test_pictures_of_before_go_and_others_stay(pictured, monkeypatch):
    from gatedrnn._app.tasks.adding import Adding

    (RUN / "pictures/mine.jpg").write_text("photo")
    monkeypatch.setattr(Adding, "pictures", lambda self, params: {"new.txt": "drawn"})
    assert pictured("eval", "runs/tiny").code == 0
    there = {path.name: path.read_bytes() for path in RUN.glob("pictures/*")}
    assert there == {"mine.jpg": b"photo", "new.txt": b"drawn"}
    assert run_folder.find(RUN).record.files[-1] == "pictures/new.txt"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "format"),
        ({"version": 2}, "version"),
        ({"latest": "2"}, "latest"),
        ({"files": ["../../victim"]}, "'../../victim' is no path within it"),
        ({"files": ["/victim"]}, "'/victim' is no path within it"),
        ({"writing": ["latest/.."]}, "'latest/..' is no path within it"),
        ({"best": {"../..": {"step": 1, "measures": {}}}}, "is no path within it"),
        ({"surprise": 1}, "surprise"),
        (None, "Expecting value"),
        ([], "Expected `object`"),
    ],
)
def test_a_record_that_is_not_ours(pictured, refuses, change, words):
    path, victim = RUN / "run.json", Path("victim")
    victim.write_text("years of work")
    if isinstance(change, dict):
        path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    else:
        path.write_text("" if change is None else json.dumps(change))
    said = ("holds no run that can be read: run.json: ", words)
    for arguments in ((*TRAIN, "--resume"), (*TRAIN, "--overwrite"), ("eval", "runs/tiny")):
        refuses(*arguments, words=said)
    assert victim.read_text() == "years of work"


@pytest.mark.parametrize("kept", [None, 0, 100, 1])
def test_metrics_that_are_lost_do_not_cost_the_best(command, monkeypatch, kept):
    from gatedrnn._app.tasks.language import Language

    values = iter([2.0, 3.0, 4.0, 3.5, 2.5])
    monkeypatch.setattr(Language, "evaluate", lambda *args: {"bits": next(values)})
    assert command(*TRAIN, "--set", "train.steps=4").code == 0
    best = checkpoint("best/LSTM")
    path = RUN / "metrics.jsonl"
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: len(content) - 1 if kept == 1 else kept])
    outcome = command(*TRAIN, "--resume", "--set", "train.steps=8")
    assert outcome.code == 0
    assert outcome.err.startswith("gatedrnn: metrics were lost: ")
    assert outcome.err.count("metrics were lost") == 1
    assert "LSTM, step 2  2.000" in outcome.out
    assert run_folder.find(RUN).record.best["LSTM"] == record.Best(2, {"bits": 2.0})
    for a, b in zip(checkpoint("best/LSTM"), best, strict=True):
        assert str(a) == str(b)
    lines = path.read_bytes().splitlines()
    assert run_folder.find(RUN).record.metrics == path.stat().st_size
    steps = [json.loads(line).get("step") for line in lines]
    assert steps[-6:] == [5, 6, 6, 7, 8, 8]
    values = iter([2.0])
    assert command("eval", "runs/tiny").err == ""  # it has been said


def test_a_run_that_a_process_writes_to_is_left_alone(pictured, monkeypatch, refuses):
    with lock.held("runs/tiny"):
        words = f"runs/tiny is in use by process {os.getpid()} of "
        for option in ((), ("--overwrite",), ("--resume",)):
            if option:
                refuses(*TRAIN, *option, words=(words,), code=1)
        before = kills.tree(RUN)
        outcome = pictured("eval", "runs/tiny")
        assert outcome.code == 0
        assert "Elman, step 2" in outcome.out
        assert outcome.err.startswith(f"gatedrnn: {words}")
        assert outcome.err.endswith("; the curve and the pictures were left as they are\n")
        assert kills.tree(RUN) == before
    assert pictured("eval", "runs/tiny").err == ""
    assert os.listdir("runs") == ["tiny"]


def test_the_lock_of_a_new_run_is_taken_before_its_data_are_made(refuses, monkeypatch):
    from gatedrnn._app.tasks.language import Config

    monkeypatch.setattr(Config, "make", lambda self: pytest.fail("too late"))
    with lock.held("runs/tiny"):
        refuses(*TRAIN, words=("runs/tiny is in use by process ",), code=1)


def test_the_lock_of_a_dead_process_is_taken_over(workplace, pytestconfig):
    code = "import os; from gatedrnn._app import lock\nwith lock.held('runs/tiny'): os._exit(9)"
    environment = os.environ | {"PYTHONPATH": str(pytestconfig.rootpath)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 9
    assert os.listdir("runs") == [".tiny.gatedrnn.lock"]
    with lock.held("runs/tiny"):
        assert f"process {os.getpid()} of" in Path("runs/.tiny.gatedrnn.lock").read_text()
        with pytest.raises(CommandError, match=f"in use by process {os.getpid()} of"):
            lock.held("runs/tiny").__enter__()
    assert os.listdir("runs") == []


def test_a_lock_whose_file_went_while_it_was_waited_for(workplace, monkeypatch):
    """Two that open one file, which its holder then removes, do not both hold a lock."""
    with lock.held("runs/tiny"):
        late = open("runs/.tiny.gatedrnn.lock", "rb")  # noqa: SIM115
    with late, lock.held("runs/tiny"):
        assert os.fstat(late.fileno()).st_nlink == 0
        with pytest.raises(filelock.Timeout):
            filelock.FileLock("runs/.tiny.gatedrnn.lock").acquire(timeout=0)


def test_a_file_of_the_users_is_not_taken_for_a_lock(workplace, refuses):
    Path("runs").mkdir()
    mine = Path("runs/.tiny.gatedrnn.lock")
    for content in ("my notes", "\xff"):
        mine.write_text(content, encoding="latin-1")
        refuses(*TRAIN, words=(f"cannot write {mine.absolute()}",), code=1)
        assert mine.read_text(encoding="latin-1") == content


def test_the_pictures_of_a_run_that_was_gone_on_with_stay(pictured, monkeypatch):
    """Another process saves, or ends, while the parameters of before are evaluated."""
    from gatedrnn._app.tasks.adding import Adding

    real = Adding.baselines

    def baselines(self):
        found = run_folder.find(RUN)
        record.write(found.path, msgspec.structs.replace(found.record, latest=4))
        return real(self)

    monkeypatch.setattr(Adding, "baselines", baselines)
    picture = (RUN / "curve.png").stat().st_ino
    outcome = pictured("eval", "runs/tiny")
    assert outcome.code == 0
    assert "runs/tiny has been gone on with; the curve and the pictures were left" in outcome.err
    assert run_folder.find(RUN).record.latest == 4
    assert (RUN / "curve.png").stat().st_ino == picture


def test_parameters_and_their_step_are_of_one_moment(pictured, monkeypatch):
    """Another process saves while the parameters are read."""
    real, done = run_folder.RunFolder.restore, []

    def restore(self, kind, like):
        if not done:
            done.append(self)
            best = {name: record.Best(3, b.measures) for name, b in self.record.best.items()}
            for name in best:
                os.rename(RUN / f"best/{name}/2", RUN / f"best/{name}/3")
            record.write(self.path, msgspec.structs.replace(self.record, best=best))
        return real(self, kind, like)

    monkeypatch.setattr(run_folder.RunFolder, "restore", restore)
    assert "Elman, step 3" in pictured("eval", "runs/tiny").out


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(pictured, monkeypatch, number):
    def flock(descriptor, operation):
        raise OSError(number, "not here")

    monkeypatch.setattr("fcntl.flock", flock)
    outcome = pictured(*TRAIN, "--resume", "--set", "train.steps=4")
    assert outcome.code == 0
    assert outcome.err.startswith("gatedrnn: runs/tiny cannot be locked: not here; let no other")
    outcome = pictured("eval", "runs/tiny")
    assert outcome.code == 0
    assert outcome.err.endswith("not here; the curve and the pictures were left as they are\n")
    assert os.listdir("runs") == ["tiny"]


def test_a_system_without_locks_has_those_of_filelock(workplace, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", flock)
        for _ in range(2):
            with lock.held("runs/tiny"):
                words = f"in use by process {os.getpid()} of .*, or else .*lock is to be removed"
                with pytest.raises(CommandError, match=words):
                    lock.held("runs/tiny").__enter__()
                mine = Path("runs/.tiny.gatedrnn.lock").read_text()
            assert not Path("runs").exists()
        Path("runs").mkdir()
        Path("runs/.tiny.gatedrnn.lock").write_text("my notes")
        with pytest.raises(CommandError, match="it is no lock of gatedrnn"):
            lock.held("runs/tiny").__enter__()
    Path("runs/.tiny.gatedrnn.lock").write_text(mine)  # of a process that was killed
    with lock.held("runs/tiny"):
        pass


def test_the_lock_where_nothing_can_be_written_beside_the_folder(pictured, monkeypatch, refuses):
    real = filelock.FileLock.acquire

    def acquire(self, **options):
        if Path(self.lock_file).parent.name == "runs":
            raise PermissionError(13, "Permission denied")
        return real(self, **options)

    resume = (*TRAIN, "--resume", "--set", "train.steps=4")
    inner, outer = RUN / ".gatedrnn.lock", Path("runs/.tiny.gatedrnn.lock")
    with monkeypatch.context() as closed:
        closed.setattr(filelock.FileLock, "acquire", acquire)
        at_step(closed, 3, lambda loss: (inner.stat(), loss)[1])
        assert pictured(*resume).code == 0
        assert pictured("eval", "runs/tiny").err == ""
        assert not inner.exists()
        outer.write_text("process 7 of there")
        words = ("is in use by process 7 of there, or else /", "is to be removed")
        refuses(*resume, words=words, code=1)
        outer.unlink()
        of_one = lock.held("runs/tiny")
        of_one.__enter__()
    with pytest.raises(CommandError, match="runs/tiny is in use by process"):
        lock.held("runs/tiny").__enter__()  # one who may write beside it
    of_one.__exit__(None, None, None)
    inner.write_text("process 7 of there")  # which was killed
    assert record.split(RUN, run_folder.find(RUN).record)[1] == []
    with lock.held("runs/tiny"):
        assert f"process {os.getpid()} of" in inner.read_text()
    assert not inner.exists()


def test_a_folder_that_nobody_writes_to_is_evaluated(pictured, monkeypatch):
    def acquire(self, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    outcome = pictured("eval", "runs/tiny")
    assert outcome.code == 0
    assert "Elman, step 2" in outcome.out
    words = "cannot write runs/tiny: Read-only file system; the curve and the pictures were left as"
    assert outcome.err == f"gatedrnn: {words} they are\n"


def test_hidden_folders_of_before_are_cleaned_or_named(pictured):
    """Of killed processes; those of another run, and a user's, are not looked at."""
    never = Path("runs/.tiny.00000001.new")
    never.mkdir()
    record.write(never, record.Record(writing=("latest/2",)))
    for name in (
        "metrics.jsonl",
        ".config.toml.0123abcd.part",
        "latest/2.orbax-checkpoint-tmp/d/x",
    ):
        (never / name).parent.mkdir(parents=True, exist_ok=True)
        (never / name).write_text("a part")
    bare = Path("runs/.tiny.00000002.new")
    bare.mkdir()
    (bare / ".run.json.0123abcd.part").touch()
    shutil.copytree(RUN, "runs/.tiny.00000003.old")
    foreign = Path("runs/.tiny.00000004.new")
    foreign.mkdir()
    (foreign / "mine").touch()
    (foreign / "metrics.jsonl").touch()
    others = [".tiny.x.00000001.new", ".tinyx00000001.new", ".tiny.00000001.newer", ".other.1.new"]
    for name in others:
        Path("runs", name).mkdir()
    outcome = pictured(*TRAIN)
    assert outcome.code == 2
    said = outcome.err.splitlines()
    assert said[0].startswith("gatedrnn: runs/.tiny.00000004.new is left as it is: a run that was")
    assert sorted(os.listdir(foreign)) == ["metrics.jsonl", "mine"]
    command = "mv runs/.tiny.00000003.old runs/tiny-00000003-old"
    assert said[1].endswith(f"left a whole run, which is kept: {command}")
    assert len(said) == 3
    kept = {"tiny", ".tiny.00000003.old", ".tiny.00000004.new", *others}
    assert set(os.listdir("runs")) == kept
    os.rename(*command.split()[1:])
    assert pictured("eval", "runs/tiny-00000003-old").code == 0


def test_a_hidden_folder_whose_record_cannot_be_read_is_left_alone(workplace, capsys, monkeypatch):
    """Its record is damaged, of a newer version, of another user, or its folder a link."""
    contents = {"1": "", "2": '{"format": "gatedrnn run", "version": 2}', "3": "{}"}
    for name, content in contents.items():
        root = Path(f"runs/.tiny.0000000{name}.new")
        (root / "latest").mkdir(parents=True)
        (root / "metrics.jsonl").write_text("lines")
        (root / "run.json").write_text(content)
    real = files.read

    def read(path, most):
        if path.parent.name == ".tiny.00000003.new":
            raise PermissionError(13, "Permission denied")
        return real(path, most=most)

    monkeypatch.setattr(files, "read", read)
    Path("mine").mkdir()
    record.write(Path("mine").absolute(), record.Record())
    Path("runs/.tiny.00000004.new").symlink_to(Path("mine").absolute())
    before = kills.tree(Path())
    leftovers.settle("runs/tiny")
    said = capsys.readouterr().err.splitlines()
    assert all(f"{n}.new is left as it is: " in line for n, line in zip("1234", said, strict=True))
    assert kills.tree(Path()) == before
    assert Path("runs/.tiny.00000004.new").is_symlink()


def test_a_run_that_is_not_at_home_is_named_by_all_commands(pictured, refuses):
    os.rename(RUN, "runs/.tiny.00000003.new")
    words = ("there is no such folder", "mv runs/.tiny.00000003.new runs/tiny")
    for arguments in (
        (*TRAIN, "--resume"),
        ("eval", "runs/tiny"),
        ("sample", "runs/tiny"),
        *((name, "runs/tiny", *options) for name, *options in EXPORT),
    ):
        refuses(*arguments, words=words)
    assert leftovers.named(RUN)
    assert "mv runs/.tiny.00000003.new runs/tiny\n" in pictured(*SHORT).err


def test_a_save_of_the_step_that_is_saved_writes_nothing(command, monkeypatch):
    """A stop right after a validation."""
    at_step(monkeypatch, 2, interrupt)
    assert command(*TRAIN).code == 130
    assert run_folder.find(RUN).record.latest == 2
    assert command(*TRAIN, "--resume").code == 0
