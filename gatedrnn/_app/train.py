"""`gatedrnn train`: a character-level language model, from a configuration to a folder."""

import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import jax

from gatedrnn._app import checkpoints, curve, interrupt, learning, model, ngram, run_folder
from gatedrnn._app import config as configuration
from gatedrnn._app.config import Config
from gatedrnn._app.errors import CommandError
from gatedrnn._app.learning import State
from gatedrnn._app.loop import Training
from gatedrnn._app.run_folder import LATEST, RunFolder
from gatedrnn._app.text import Corpus, load_text, prepare

# settings in which a resumed run may differ from what it resumes; the text is known by its SHA-256
MAY_CHANGE = {"train.steps", "data.path", "run.folder"}


def run(path: str, overrides: Sequence[str], *, overwrite: bool, resume: bool) -> int:
    """Train as the configuration `path` says; the exit code of the program."""
    config = configuration.load(path, overrides)
    corpus = prepare(
        load_text(config.data.path),
        validation_fraction=config.data.validation_fraction,
        window=config.train.window,
        batch=config.train.batch,
    )
    if not resume:
        run_folder.check_free(config.run.folder, overwrite=overwrite)
    net = model.build(config.model, corpus.vocabulary.size)
    key = jax.random.key(config.train.seed)
    begin = partial(
        learning.initial_state, net=net, settings=config.optimiser, batch=config.train.batch
    )
    baselines = ngram.bits_per_character(corpus.train, corpus.validation, corpus.vocabulary.size)

    began = time.perf_counter()
    with interrupt.deferred() as interrupted:
        if resume:
            like = jax.eval_shape(begin, key, config.train.steps)
            folder, state = _resume(config, corpus, like)
        else:
            state = begin(key, config.train.steps)
            folder = run_folder.create(config, corpus, overwrite=overwrite)
        training = Training(config, corpus, net, folder, state)
        try:
            if not resume:
                for name, bits in baselines.items():
                    folder.append(kind="baseline", name=name, bits=bits)
            print(_introduction(config, corpus, training, baselines), flush=True)
            training.go(stop=interrupted)
            if interrupted() and training.step and not training.folder.replaces:
                training.keep()
        except Exception as error:
            with suppress(CommandError):  # the first failure is the one to report
                _draw(training)
            if isinstance(error, CommandError):
                raise CommandError(
                    f"{error}; {_remains(config, training.folder)}", exit_code=error.exit_code
                ) from error
            raise
        finally:
            training.folder.discard_pending()
        _draw(training)
        if interrupted():
            raise CommandError(_interruption(config, training), exit_code=130)
    print(_conclusion(config, corpus, training, baselines, time.perf_counter() - began))
    return 0


def _resume(config: Config, corpus: Corpus, like: State) -> tuple[RunFolder, State]:
    """The run in the folder that `config` names, and its latest state, shaped like `like`."""
    folder = run_folder.find(config.run.folder)
    changes = configuration.differences(folder.config(), config)
    for key in sorted(changes.keys() - MAY_CHANGE):
        old, new = changes[key]
        raise CommandError(
            f"--resume: {key} is {new!r}, but {old!r} in {config.run.folder};"
            " train.steps, data.path (of the same text) and run.folder alone may differ"
        )
    if folder.vocabulary() != (corpus.vocabulary, corpus.digest):
        raise CommandError(f"--resume: the text is not the one that {config.run.folder} began with")
    state = checkpoints.restore(folder.path / LATEST, like)
    done = int(state.step)
    if "train.steps" in changes and config.train.steps <= done:
        raise CommandError(
            f"train.steps: got {config.train.steps}, expected more than the {done} steps that the"
            " run has done"
        )
    folder.forget_after(done)
    folder.write_config(config)
    return folder, state


def _introduction(
    config: Config, corpus: Corpus, training: Training, baselines: dict[str, float]
) -> str:
    source = config.data.path or "the help pages of this Python"
    count = sum(leaf.size for leaf in jax.tree.leaves(training.state.params))
    resumed = f", resumed at step {training.step}" if training.step else ""
    return (
        f"text        {source}: {len(corpus.train):,} characters to train on,"
        f" {len(corpus.validation):,} to validate, {corpus.vocabulary.size} symbols\n"
        f"model       {config.model.layers} × LSTM({config.model.features}),"
        f" {count:,} parameters{resumed}\n"
        f"to beat     trigram {baselines['trigram']:.3f},"
        f" unigram {baselines['unigram']:.3f} bits per character"
    )


def _draw(training: Training) -> None:
    if not training.folder.pending:
        curve.draw(training.folder)


def _interruption(config: Config, training: Training) -> str:
    where = f"interrupted at step {training.step} of {config.train.steps}"
    if training.folder.pending:
        return f"{where}; {_remains(config, training.folder)}"
    best = (
        f"the best parameters so far (step {training.best.step},"
        f" {training.best.bits:.3f} bits per character)"
        if training.best
        else "the parameters, not yet validated,"
    )
    return f"{where}; {best} are in {config.run.folder}, and --resume goes on"


def _remains(config: Config, folder: RunFolder) -> str:
    """What a run that ends early leaves."""
    if not folder.pending:
        return "what was saved before stays"
    older = f"; {config.run.folder} holds the older run as it was" if folder.replaces else ""
    return f"nothing was saved yet{older}"


def _prompt(corpus: Corpus) -> str:
    """The option that has a sample continue the first word of the text, for a shell."""
    head = "".join(map(corpus.vocabulary.decode, corpus.train[:1000].tolist()))
    word = next((word for word in head.split() if word.isprintable()), "")
    return f" --prompt={shlex.quote(word[:20])}" if word else ""


def _conclusion(
    config: Config,
    corpus: Corpus,
    training: Training,
    baselines: dict[str, float],
    seconds: float,
) -> str:
    assert training.best is not None  # the last step is always followed by a validation
    gain = baselines["trigram"] - training.best.bits
    rows = [
        ("unigram", baselines["unigram"], ""),
        ("interpolated trigram", baselines["trigram"], ""),
        (
            f"LSTM, step {training.best.step}",
            training.best.bits,
            f"{abs(gain):.3f} {'below' if gain > 0 else 'above'} the trigram",
        ),
    ]
    table = "\n".join(f"  {name:<24}{bits:>7.3f}   {note}".rstrip() for name, bits, note in rows)
    return (
        f"\nbits per character on the {len(corpus.validation) - 1:,} validation characters\n"
        f"{table}\n\n"
        f"{training.step:,} steps, {seconds:.0f} s; everything is in {config.run.folder}. Try:\n"
        f"  gatedrnn sample {shlex.quote(config.run.folder)}{_prompt(corpus)}"
    )
