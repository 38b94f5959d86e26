import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import gatedrnn as gr
from gatedrnn._app.errors import CommandError
from gatedrnn._app.tasks.language import LanguageModel, Model, sample
from gatedrnn._app.tasks.language.text import UNKNOWN, Vocabulary

SAMPLE = ("sample", "runs/tiny", "--prompt", "the ", "--length", "20")


@pytest.fixture
def trained(command):
    assert command("train", "tiny.toml", "--set", "train.steps=2").code == 0
    return command


@pytest.fixture
def network():
    """A network with random parameters that are large enough to prefer something."""
    vocabulary = Vocabulary("abcd")
    settings = Model(embedding=4, features=8, layers=2, dropout=0.1)
    model = LanguageModel(settings, vocabulary.size)
    params = jax.tree.map(lambda a: 3 * a, model.init(jax.random.key(5)))
    return model, params, vocabulary


def test_continues_the_prompt_and_is_reproducible(trained):
    first = trained(*SAMPLE, "--seed", "3")
    assert first.code == 0
    assert first.err == ""
    assert first.out.startswith("the ")
    assert len(first.out) == len("the ") + 20 + len("\n")
    assert trained(*SAMPLE, "--seed", "3").out == first.out
    assert trained(*SAMPLE, "--seed", "4").out != first.out


def test_streaming_equals_apply(network):
    model, params, vocabulary = network
    prompt = "abba"
    text = prompt + "".join(
        sample.continuation(model, params, vocabulary, prompt, length=12, temperature=0, seed=0)
    )
    assert len(text) == 16
    tokens = vocabulary.encode(text)[:, None]
    _, logits = model.net.apply(params, tokens)
    likeliest = np.argmax(np.asarray(logits[:, 0]).T[1:], axis=0) + 1  # never the unknown symbol
    assert likeliest[3:-1].tolist() == tokens[4:, 0].tolist()


def test_drawn_frequencies_are_those_of_the_model(network):
    model, params, vocabulary = network
    carry = model.carry(params, 4000)
    first = np.full(4000, vocabulary.encode("a"))
    _, logits = model.net.step(params, model.carry(params, 1), first[:1])
    step = jax.tree_util.Partial(model.step, params)
    for temperature in (0.7, 1.5):
        scaled = np.asarray(logits[0], np.float64) / temperature
        scaled[UNKNOWN] = -np.inf
        expected = np.exp(scaled - scaled.max()) / np.exp(scaled - scaled.max()).sum()
        key = jax.random.key(1)
        drawn = gr.sample(step, carry, first, key, max_length=1, temperature=temperature)
        got = np.bincount(np.asarray(drawn.tokens[0]), minlength=5) / 4000
        np.testing.assert_allclose(got, expected, atol=0.03)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e300])
def test_the_unknown_symbol_is_never_drawn(network, temperature):
    model, params, vocabulary = network
    head = params[-1]
    certain = head._replace(bias=head.bias.at[UNKNOWN].set(100.0))
    drawn = sample.continuation(
        model,
        (*params[:-1], certain),
        vocabulary,
        "a",
        length=40,
        temperature=temperature,
        seed=0,
    )
    assert set(drawn) <= set(vocabulary.characters)


def test_a_network_without_probabilities(network):
    model, params, vocabulary = network
    broken = jax.tree.map(lambda a: np.full_like(a, np.nan), params)
    options = {"length": 3, "temperature": 1.0, "seed": 0}
    with pytest.raises(CommandError, match="gives no probabilities of character 1"):
        list(sample.continuation(model, broken, vocabulary, "ab", **options))


def test_every_character_is_drawn_anew(network):
    model, params, vocabulary = network
    indifferent = jax.tree.map(np.zeros_like, params)
    drawn = sample.continuation(
        model, indifferent, vocabulary, "a", length=60, temperature=1.0, seed=0
    )
    assert set(drawn) == set(vocabulary.characters)


def test_characters_come_as_they_are_drawn(network):
    model, params, vocabulary = network
    stream = sample.continuation(
        model, params, vocabulary, "a", length=10**9, temperature=1.0, seed=0
    )
    assert next(stream) in vocabulary.characters


def test_without_a_prompt_it_starts_a_line(trained, network):
    outcome = trained("sample", "runs/tiny", "--length", "5")
    assert (outcome.code, len(outcome.out)) == (0, 6)
    assert Vocabulary("\t\n a").start == "\n"
    assert Vocabulary(" ab").start == " "


@pytest.mark.parametrize("temperature", [1e300, 3e38, 1e-40, 1e-300])
def test_temperatures_beyond_float32(network, temperature):
    model, params, vocabulary = network
    drawn = sample.continuation(
        model, params, vocabulary, "a", length=60, temperature=temperature, seed=0
    )
    likeliest = sample.continuation(
        model, params, vocabulary, "a", length=60, temperature=0, seed=0
    )
    if temperature < 1:
        assert list(drawn) == list(likeliest)
    else:
        assert set(drawn) == set(vocabulary.characters)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--prompt", "thé"), ("--prompt: 'é' is not among the 11 characters",)),
        (("--temperature", "-1"), ("--temperature: got -1.0, expected", "at least 0")),
        (("--temperature", "nan"), ("--temperature: got nan",)),
        (("--length", "0"), ("--length: got 0, expected at least 1",)),
        (("--seed", "-1"), ("--seed: got -1, expected an integer from 0",)),
    ],
)
def test_bad_options(trained, refuses, arguments, words):
    refuses(*SAMPLE, *arguments, words=words)


def test_folders_that_are_no_run(refuses):
    refuses("sample", "nowhere", words=("nowhere: there is no such folder",))
    refuses("sample", "n" * 300, words=("cannot read nnn", "File name too long"))
    refuses("sample", "a\0b", words=("cannot read a", "null"))
    Path("empty").mkdir()
    refuses("sample", "empty", words=("empty holds no run: it has no run.json",))


def test_runs_that_are_damaged(trained, refuses):
    for kind in ("d", "ocdbt.process_0"):
        shutil.rmtree(f"runs/tiny/best/LSTM/2/{kind}")
    refuses(*SAMPLE, words=("cannot read the checkpoint", "best/LSTM/2"), code=1)
    shutil.rmtree("runs/tiny/best")
    refuses(*SAMPLE, words=("cannot read the checkpoint", "best/LSTM/2"), code=1)
    for content in (
        b"{}",
        b"[]",
        b"3",
        b"\xff",
        b"[" * 100_000,
        b'{"characters": 3, "text_sha256": ""}',
        b'{"characters": "", "text_sha256": ""}',
    ):
        Path("runs/tiny/data.json").write_bytes(content)
        refuses(*SAMPLE, words=("cannot read", "data.json"))
