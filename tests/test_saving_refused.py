"""What `gr.save` and `gr.load` refuse, in one line, and files that stay whole."""

import json
import os
import resource
import stat
import struct
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saved import I, bits, params_of

import gatedrnn as gr
from gatedrnn._saving.classes import known
from gatedrnn._saving.description import fields_of
from gatedrnn._saving.save import FORMAT

pytest.importorskip("safetensors")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "net.safetensors")


@pytest.fixture(scope="module")
def module_path(tmp_path_factory):
    return str(tmp_path_factory.mktemp("nets") / "net.safetensors")


# What is not written ------------------------------------------------------------------------------


def test_what_is_no_layer_and_no_path(path):
    for layer in (3, gr.LSTM, gr.BPTT(), None, (gr.LSTM(3),)):
        with pytest.raises(TypeError, match=r"^layer: got .*, expected a layer or a cell"):
            gr.save(path, layer, ())
    with pytest.raises(TypeError, match=r"^path: got 3, expected the name of a file"):
        gr.save(3, gr.dense(3), ())
    with pytest.raises(TypeError, match=r"^path: got None, expected the name of a file"):
        gr.load(None)


SPEAKER = gr.stack(gr.embed(7, 3), gr.residual(gr.GRU(3)), gr.repeat(gr.dense(3), 2))
LOOKING = gr.Attention(gr.GRU(4), 5, 3)
MODEL = gr.seq2seq(gr.GRU(3), gr.stack(gr.embed(5, 2), gr.GRU(4)))


@pytest.mark.parametrize(
    ("layer", "params", "refused"),
    [
        (
            gr.LSTM(4),
            params_of(gr.LSTM(5), I),
            r"\.kernel: got shape \(3, 20\), expected \(3, 16\)",
        ),
        (gr.LSTM(4), params_of(gr.GRU(4), I), r": got GRUParams\(.*, expected LSTMParams\("),
        (gr.LSTM(4), (), r": got a tuple of 0, expected LSTMParams\("),
        (SPEAKER, params_of(SPEAKER, None)[:2], r": got a tuple of 2, expected a tuple of 3"),
        (gr.residual(gr.GRU(3)), params_of(gr.recurrent(gr.GRU(3)), 4), r".*: got shape \(4, 9\)"),
        (LOOKING, params_of(LOOKING, I)._replace(score=jnp.ones(2)), r"\.score: got shape \(2,\)"),
        (MODEL, (), r": got \(\), expected those of Seq2Seq"),
        (MODEL, params_of(MODEL, I)._replace(bridge=None), r"\.bridge: got None, expected Dense"),
        (MODEL, params_of(MODEL, I)._replace(encoder=()), r"\.encoder: got a tuple of 0, "),
    ],
    ids=str,
)
def test_parameters_of_another_layer(layer, params, refused, path):
    with pytest.raises(ValueError, match=rf"^params{refused}"):
        gr.save(path, layer, params)
    assert not os.path.exists(path)


def test_parameters_that_are_no_arrays(path):
    """Each is named by its place."""
    save = partial(gr.save, path, gr.dense(2))
    good = params_of(gr.dense(2), I)
    with pytest.raises(TypeError, match=r"^params\.bias: got 2\.0, expected an array"):
        save(good._replace(bias=2.0))
    with pytest.raises(TypeError, match=r"^params\.kernel: got ShapeDtype.*, expected an array$"):
        save(jax.eval_shape(lambda: good))
    with pytest.raises(
        TypeError, match=r"^params\.kernel: got .*, expected an array: save outside"
    ):
        jax.jit(save)(good)
    with pytest.raises(TypeError, match=r"^params\.bias: got dtype float8_e4m3fn, expected one of"):
        save(good._replace(bias=good.bias.astype("float8_e4m3fn")))
    gone = jnp.ones(2, jnp.float32)
    gone.delete()
    with pytest.raises(ValueError, match=r"^params\.bias: got an array that was deleted"):
        save(good._replace(bias=gone))


def test_arrays_of_other_processes(path, monkeypatch):
    params = params_of(gr.dense(2), I)
    monkeypatch.setattr(type(params.kernel), "is_fully_addressable", False)
    monkeypatch.setattr(type(params.kernel), "is_fully_replicated", False)
    with pytest.raises(ValueError, match=r"^params\.kernel: got .* other processes .*allgather"):
        gr.save(path, gr.dense(2), params)
    monkeypatch.setattr(type(params.kernel), "is_fully_replicated", True)
    gr.save(path, gr.dense(2), params)


def test_without_safetensors(path, monkeypatch):
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    for call in (partial(gr.save, path, gr.dense(2), ()), partial(gr.load, path)):
        with pytest.raises(ModuleNotFoundError, match=r'pip install "gatedrnn\[files\]"'):
            call()


# Whole or not at all ------------------------------------------------------------------------------


@pytest.fixture
def older(path):
    """A file that is there, of which every failure leaves the bytes."""
    gr.save(path, gr.dense(2), params_of(gr.dense(2), I))
    before = Path(path).read_bytes()
    yield path
    assert Path(path).read_bytes() == before
    assert list(Path(path).parent.iterdir()) == [Path(path)]


def test_a_disk_that_is_full(older):
    """The system lets no file grow beyond some bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match=r"^cannot write .*net\.safetensors: .*too large"):
            gr.save(older, gr.dense(99), params_of(gr.dense(99), I))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupt(older, name, error, monkeypatch):
    def stop(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, name, stop)
        with pytest.raises(type(error)) as caught:
            gr.save(older, gr.dense(3), params_of(gr.dense(3), I))
    if isinstance(error, OSError):
        assert caught.value.filename == older


def test_a_folder_that_is_not_there(tmp_path):
    for save in (gr.save, lambda path, *_: gr.load(path)):
        with pytest.raises(FileNotFoundError, match=r"no/net\.st'$"):
            save(str(tmp_path / "no" / "net.st"), gr.dropout(0.5), ())


def test_a_link_stays_and_others_may_read(tmp_path):
    """The file has the permissions that any new file has, or those of the one that it replaces."""
    link, target, other = tmp_path / "link", tmp_path / "target", tmp_path / "other"
    link.symlink_to(target)
    other.write_text("")
    gr.save(link, gr.dropout(0.5), ())
    assert link.is_symlink()
    assert target.stat().st_mode == other.stat().st_mode
    assert gr.load(target) == (gr.dropout(0.5), ())
    target.chmod(0o640)
    gr.save(link, gr.dropout(0.2), ())
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


# What is not read ---------------------------------------------------------------------------------

NET = gr.stack(gr.recurrent(gr.LSTM(4)), gr.dense(2))


def taken_apart(path):
    """The header of a file without its description, the description, and the data."""
    content = Path(path).read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    return header, json.loads(header.pop("__metadata__")["gatedrnn"]), content[8 + size :]


def put_together(path, header, description, data):
    text = description if isinstance(description, str) else json.dumps(description)
    header = json.dumps({"__metadata__": {"gatedrnn": text}, **header}).encode()
    Path(path).write_bytes(struct.pack("<Q", len(header)) + header + data)


def lstm(description):
    recurrent = description["layer"]["gatedrnn.Stack"]["layers"][0]["gatedrnn.Recurrent"]
    return recurrent["cell"]["gatedrnn.LSTM"]


def kernel(description):
    return description["params"][1]["gatedrnn.DenseParams"]["kernel"]["$array"]


def damaged(change):
    """Change the parts of a file in place."""

    def damage(path):
        parts = taken_apart(path)
        put_together(path, *(change(*parts) or parts))

    return damage


def cut(size):
    def damage(path):
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[:size])

    return damage


def other_file(path):
    from safetensors.numpy import save_file

    save_file({"a": np.ones(3)}, path)


def renamed(header, description, data):
    header["2.kernel"] = header.pop("1.kernel")


def transposed(header, description, data):
    header["1.kernel"]["shape"].reverse()


def another_dtype(header, description, data):
    header["1.kernel"]["dtype"] = "I32"


def other_class(name, content=None):
    def change(header, description, data):
        layers = description["layer"]["gatedrnn.Stack"]["layers"]
        ((_, fields),) = layers[1].items()
        layers[1] = {name: fields if content is None else content}

    return change


def with_format(number):
    return lambda header, description, data: description.update(format=number)


def replaced(part, value):
    return lambda header, description, data: description.update({part: value})


DEEP = "[" * 9999 + "]" * 9999
REPEATED = {"gatedrnn.Repeat": {"layer": {"gatedrnn.Dense": {"features": 3}}, "n": 2}}
DAMAGES = {
    "empty": (cut(0), "no whole safetensors file"),
    "a few bytes": (cut(11), "no whole safetensors file"),
    "half a header": (cut(300), "no whole safetensors file"),
    "without the last byte": (cut(-1), "no whole safetensors file"),
    "one byte more": (damaged(lambda h, d, data: (h, d, data + b"x")), "no whole safetensors file"),
    "of others": (other_file, "it holds arrays and no layer"),
    "no JSON": (damaged(lambda h, d, data: (h, "{layer", data)), "line 1 column 2"),
    "a list": (damaged(lambda h, d, data: (h, [1], data)), r"got a description \[1\]"),
    "deep": (damaged(lambda h, d, data: (h, DEEP, data)), "recursion"),
    "newer": (damaged(with_format(2)), r"format: got 2, expected at most 1: .* newer .*'0\.1\.0'"),
    "no number": (damaged(with_format(True)), "format: got True, expected an integer from 1"),
    "without layer": (damaged(lambda h, d, data: d.pop("layer") and None), "without layer"),
    "no layer": (damaged(replaced("layer", 3)), "layer: got 3, expected a layer or a cell"),
    "options": (
        damaged(replaced("layer", {"gatedrnn.BPTT": {}})),
        r"layer: got BPTT\(\), expected",
    ),
    "array in the layer": (damaged(replaced("layer", {"$array": []})), r"layer: got \{'\$array'"),
    "unknown tag": (
        damaged(replaced("params", [{"$pickle": "x"}])),
        r"params\[0\]: got \{'\$pickle'",
    ),
    "two classes": (damaged(replaced("layer", {"a": 1, "b": 2})), "got the keys .*a single one"),
    "fields": (damaged(other_class("gatedrnn.Dense", 3)), "got 3, expected the fields of gatedrnn"),
    "no class": (damaged(other_class("os.system")), r"got the class os\.system, expected one that"),
    "a function": (damaged(other_class("gatedrnn.dense")), "expected a class of this version"),
    "no member": (damaged(other_class("gatedrnn.Stack.run")), "expected a class of this version"),
    "another class": (
        damaged(other_class("gatedrnn.GRU")),
        "layer: gatedrnn.Stack: layers: got GRU",
    ),
    "unknown field": (
        damaged(lambda h, d, data: lstm(d).update(depth=3)),
        r"layers\[0\]\.cell: got depth, fields gatedrnn\.LSTM has not, expected features, peephole",
    ),
    "missing field": (
        damaged(lambda h, d, data: lstm(d).pop("features") and None),
        r"layers\[0\]\.cell: got no features of gatedrnn\.LSTM, expected features",
    ),
    "wrong field": (
        damaged(lambda h, d, data: lstm(d).update(peephole="round")),
        r"layers\[0\]\.cell: gatedrnn\.LSTM: peephole: got 'round', expected one of",
    ),
    "another size": (
        damaged(lambda h, d, data: lstm(d).update(features=5)),
        r"params\[0\]\.cell\.kernel: got shape \(3, 16\), expected \(3, 20\)",
    ),
    "missing array": (damaged(renamed), r"params\[1\]\.kernel: got no array '1\.kernel'"),
    "layers without end": (
        damaged(replaced("layer", {"gatedrnn.Repeat": {"layer": REPEATED, "n": 10**9}})),
        r"got 138 numbers, expected those of the 2,000,000,000 layers that gr\.repeat makes",
    ),
    "an array too many": (
        damaged(lambda h, d, data: d["params"][1]["gatedrnn.DenseParams"].update(bias=None)),
        r"got arrays that no parameter is, 1\.bias, expected none",
    ),
    "another shape": (
        damaged(transposed),
        r"params\[1\]\.kernel: got an array of float32 \[2, 4\], expected float32 \[4, 2\]",
    ),
    "another dtype": (
        damaged(another_dtype),
        r"kernel: got an array of int32 .*, expected float32",
    ),
    "no entry": (
        damaged(lambda h, d, data: kernel(d).pop() and None),
        "expected an array, its dtype",
    ),
    "no name": (damaged(lambda h, d, data: kernel(d).__setitem__(0, [3])), r"got no array \[3\]"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_in_a_line_that_names_the_file(name, path):
    damage, refused = DAMAGES[name]
    gr.save(path, NET, params_of(NET, I))
    damage(path)
    with pytest.raises(ValueError, match=refused) as caught:
        gr.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def refusal_of(path):
    """The words in which a file is refused, None where it is read."""
    try:
        gr.load(path)
    except ValueError as error:
        return str(error)
    return None


def places(json, found):
    """All lists and objects inside a description, each with its keys."""
    if isinstance(json, dict | list):
        found += [(json, key) for key in (json if isinstance(json, dict) else range(len(json)))]
        for value in json.values() if isinstance(json, dict) else json:
            places(value, found)
    return found


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inside: (
        st.lists(inside, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["$list", "$dict", "$float", "$key", "gatedrnn.Memory", "gatedrnn.Rule"]
            ),
            inside,
            max_size=2,
        )
    ),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(where=st.integers(0, 10**6), junk=JUNK)
def test_any_junk_in_a_description(module_path, where, junk):
    """It is refused in such a line, or it is as good as what it replaces."""
    gr.save(module_path, NET, params_of(NET, I))
    header, description, data = taken_apart(module_path)
    found = places(description, [])
    node, key = found[where % len(found)]
    node[key] = junk
    put_together(module_path, header, description, data)
    refusal = refusal_of(module_path)
    assert refusal is None or refusal.startswith(f"{module_path}: ")
    assert "\n" not in (refusal or "")


def test_what_is_no_regular_file(tmp_path):
    """It is neither read nor replaced, not by way of a link either: it may be a device."""
    folder, pipe, link = (tmp_path / name for name in ("folder", "pipe", "link"))
    folder.mkdir()
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    before = sorted(tmp_path.iterdir())
    for path, refused in (
        (folder, "Is a directory: .*folder'$"),
        (pipe, "it is no regular file: .*pipe'$"),
        (link, "it is no regular file: .*link'$"),
    ):
        with pytest.raises(OSError, match=refused):
            gr.load(path)
        with pytest.raises(OSError, match=refused):
            gr.save(path, gr.dropout(0.5), ())
    assert sorted(tmp_path.iterdir()) == before
    assert pipe.is_fifo()


def test_64_bits_are_not_cut(path):
    gr.save(path, gr.dense(2), params_of(gr.dense(2), I, dtype="float64"))
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"got dtype float64, .*enable_x64"):
        gr.load(path)


# A file of the first format, which stays readable: what is written here is never changed
FIRST = """{"format": 1, "version": "0.1.0", "layer": {"gatedrnn.Stack": {"layers": [
{"gatedrnn.Bidirectional": {"forward": {"gatedrnn.Recurrent": {"cell": {"gatedrnn.Zoneout":
{"cell": {"gatedrnn.LSTM": {"features": 1, "peephole": "diagonal", "projection": null, "coupled":
true, "forget_bias": null, "use_bias": false}}, "h": 0.25, "c": 0.0}}, "bptt": {"gatedrnn.BPTT":
{"rule": null, "chunk": null, "truncate": 3, "cell_path_only": false, "clip": 1.5, "save": "gates",
"kernel": null, "target": null}}, "initial": "learned", "reverse": false}}, "backward":
{"gatedrnn.Recurrent": {"cell": {"gatedrnn.Elman": {"features": 1, "activation": "relu",
"use_bias": false}}, "bptt": {"gatedrnn.BPTT": {}}, "initial": "zeros", "reverse": false}},
"merge": "mul"}}, {"gatedrnn.Dropout": {"rate": 0.5, "shared_in_time": true}}]}},
"params": [{"gatedrnn.Directions": {"forward": {"gatedrnn.RecurrentParams": {"cell":
{"gatedrnn.LSTMParams": {"kernel": {"$array": ["k", "float32", [1, 3]]}, "recurrent_kernel":
{"$array": ["k", "float32", [1, 3]]}, "bias": null, "peephole": {"$array": ["v", "float32", [1]]},
"output_peephole": {"$array": ["v", "float32", [1]]}, "projection_kernel": null}}, "initial":
{"gatedrnn.LSTMCarry": {"h": {"$array": ["v", "float32", [1]]}, "c": {"$array": ["v", "float32",
[1]]}}}}}, "backward": {"gatedrnn.RecurrentParams": {"cell": {"gatedrnn.ElmanParams": {"kernel":
{"$array": ["w", "float32", [1, 1]]}, "recurrent_kernel": {"$array": ["w", "float32", [1, 1]]},
"bias": null}}, "initial": null}}}}, []]}"""


def test_the_first_format_stays_readable(path):
    from safetensors.numpy import save_file

    arrays = {"k": np.ones((1, 3)), "v": np.full(1, 2.0), "w": np.full((1, 1), 3.0)}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    save_file(arrays, path, {"gatedrnn": FIRST.replace("true", " true")})
    lstm = gr.LSTM(1, peephole="diagonal", coupled=True, use_bias=False)
    bptt = gr.BPTT(truncate=3, clip=1.5, save="gates")
    ahead = gr.recurrent(gr.Zoneout(lstm, h=0.25), bptt, "learned")
    back = gr.Elman(1, activation="relu", use_bias=False)
    layer, params = gr.load(path)
    assert layer == gr.stack(gr.bidirectional(ahead, back, "mul"), gr.dropout(0.5, True))
    k, v, w = map(jnp.asarray, arrays.values())
    cell = gr.LSTMParams(k, k, None, v, v, None)
    want = gr.Directions(
        gr.RecurrentParams(cell, gr.LSTMCarry(v, v)),
        gr.RecurrentParams(gr.ElmanParams(w, w, None), None),
    )
    assert jax.tree.structure(params) == jax.tree.structure((want, ()))
    assert list(map(bits, jax.tree.leaves(params))) == list(map(bits, jax.tree.leaves(want)))


# What files of the first format may name, a class a line: all of it stays
NAMES = """
Attention: cell memory_features features
AttentionCarry: output cell
AttentionParams: cell memory_kernel query_kernel score memory
BPTT: rule chunk truncate cell_path_only clip save kernel target
Bidirectional: forward backward merge
CountedCarry: step cell
CuDNN: layer
Dense: features use_bias
DenseParams: kernel bias
Directions: forward backward
Dropout: rate shared_in_time
DropoutCarry: step
Elman: features activation use_bias
ElmanCarry: h
ElmanParams: kernel recurrent_kernel bias
Embed: vocab features
EmbedParams: table
Final: layer
GRU: features reset update use_bias
GRUCarry: h
GRUParams: kernel recurrent_kernel bias recurrent_bias
Jordan: features out_features activation output_activation use_bias
JordanCarry: o
JordanParams: kernel recurrent_kernel bias output_kernel output_bias
LSTM: features peephole projection coupled forget_bias use_bias
LSTMCarry: h c
LSTMParams: kernel recurrent_kernel bias peephole output_peephole projection_kernel
LayerNormGRU: features use_bias
LayerNormGRUParams: kernel recurrent_kernel scale recurrent_scale bias recurrent_bias
LayerNormLSTM: features forget_bias use_bias
LayerNormLSTMParams: kernel recurrent_kernel scale recurrent_scale memory_scale bias memory_bias
Memory: values keys valid
Pool: layer how
Recurrent: cell bptt initial reverse
RecurrentDropout: cell rate
RecurrentParams: cell initial
Repeat: layer n
Residual: layer
Seq2Seq: encoder decoder bridge
Seq2SeqParams: encoder decoder bridge
Shared: value
Stack: layers
TreeLSTM: features kind forget_bias use_bias
TreeLSTMParams: kernel recurrent_kernel bias
TreeLSTMState: h c
TreeRNN: features children activation use_bias
TreeRNNParams: kernel recurrent_kernel bias
TreeRNNState: h
Zoneout: cell h c
"""


def test_names_stay():
    """A field that is added has a default, so that older files are read."""
    for line in NAMES.split("\n")[1:-1]:
        name, _, fields = line.partition(":")
        now = fields_of(known([])[f"gatedrnn.{name}"])
        assert set(fields.split()) <= set(now), name
        assert not [field for field in set(now) - set(fields.split()) if now[field]], name


def test_the_format_of_today_is_that_of_the_test():
    """A new field with a default needs no new one; anything else does, and a test as above."""
    assert FORMAT == 1
