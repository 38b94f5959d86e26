import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

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
    net = LanguageModel(settings, vocabulary.size).net
    params = jax.tree.map(lambda a: 3 * a, net.init(jax.random.key(5), in_features=None))
    return net, params, vocabulary


def test_continues_the_prompt_and_is_reproducible(trained):
    first = trained(*SAMPLE, "--seed", "3")
    assert first.code == 0
    assert first.err == ""
    assert first.out.startswith("the ")
    assert len(first.out) == len("the ") + 20 + len("\n")
    assert trained(*SAMPLE, "--seed", "3").out == first.out
    assert trained(*SAMPLE, "--seed", "4").out != first.out


def test_streaming_equals_apply(network):
    net, params, vocabulary = network
    prompt = "abba"
    text = prompt + "".join(
        sample.continuation(net, params, vocabulary, prompt, length=12, temperature=0, seed=0)
    )
    assert len(text) == 16
    tokens = vocabulary.encode(text)[:, None]
    _, logits = net.apply(params, tokens, net.carry((1,), params=params))
    likeliest = np.argmax(np.asarray(logits[:, 0]).T[1:], axis=0) + 1  # never the unknown symbol
    assert likeliest[3:-1].tolist() == tokens[4:, 0].tolist()


def test_drawn_frequencies_are_those_of_the_model(network):
    net, params, vocabulary = network
    _, logits = net.apply(params, vocabulary.encode("ab")[:, None], net.carry((1,), params=params))
    for temperature in (0.7, 1.5):
        scaled = np.asarray(logits[-1, 0], np.float64) / temperature
        scaled[UNKNOWN] = -np.inf
        expected = np.exp(scaled - scaled.max()) / np.exp(scaled - scaled.max()).sum()
        rows = np.repeat(np.asarray(logits[-1]), 4000, axis=0)
        drawn = sample._draw(rows, np.float32(temperature), jax.random.key(1))
        got = np.bincount(np.asarray(drawn), minlength=5) / 4000
        np.testing.assert_allclose(got, expected, atol=0.03)


def test_a_temperature_near_0_takes_the_likeliest():
    logits = np.array([[0.0, 100.0, 500.0, 200.0]], np.float32)
    for temperature in (0.0, 1.2e-38, 1e-5):
        assert sample._draw(logits, np.float32(temperature), jax.random.key(0)).tolist() == [2]


def test_the_unknown_symbol_is_never_drawn():
    logits = np.zeros((500, 3), np.float32)
    logits[:, UNKNOWN] = 100.0
    for temperature in (0.0, 1.0):
        drawn = sample._draw(logits, np.float32(temperature), jax.random.key(0))
        assert UNKNOWN not in np.asarray(drawn)


def test_every_character_is_drawn_anew(network):
    net, params, vocabulary = network
    indifferent = jax.tree.map(np.zeros_like, params)
    drawn = sample.continuation(
        net, indifferent, vocabulary, "a", length=60, temperature=1.0, seed=0
    )
    assert set(drawn) == set(vocabulary.characters)


def test_characters_come_as_they_are_drawn(network):
    net, params, vocabulary = network
    stream = sample.continuation(
        net, params, vocabulary, "a", length=10**9, temperature=1.0, seed=0
    )
    assert next(stream) in vocabulary.characters


def test_without_a_prompt_it_starts_a_line(trained, network):
    outcome = trained("sample", "runs/tiny", "--length", "5")
    assert (outcome.code, len(outcome.out)) == (0, 6)
    assert Vocabulary("\t\n a").start == "\n"
    assert Vocabulary(" ab").start == " "


@pytest.mark.parametrize("temperature", [1e300, 3e38, 1e-40, 1e-300])
def test_temperatures_beyond_float32(network, temperature):
    net, params, vocabulary = network
    drawn = sample.continuation(
        net, params, vocabulary, "a", length=60, temperature=temperature, seed=0
    )
    likeliest = sample.continuation(net, params, vocabulary, "a", length=60, temperature=0, seed=0)
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
    refuses("sample", "empty", words=("empty holds no run: it has no config.toml",))


def test_runs_that_are_damaged(trained, refuses):
    for kind in ("d", "ocdbt.process_0"):
        shutil.rmtree(f"runs/tiny/best/LSTM/2/{kind}")
    refuses(*SAMPLE, words=("cannot read the checkpoint", "best/LSTM/2"), code=1)
    shutil.rmtree("runs/tiny/best")
    refuses(*SAMPLE, words=("best has no saved LSTM parameters",))
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
