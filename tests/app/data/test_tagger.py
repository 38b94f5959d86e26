import keyword
import tokenize

import numpy as np
import pytest

from gatedrnn._app.data import tagger

LETTERS = ".kdcn0s#o"  # of the kinds, in their order


def labelled(text):
    return "".join(LETTERS[kind] for kind in tagger.label(text)[0])


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("def f(x):\n", "kkk.donoo."),
        ("class A(B): pass\n", "kkkkk.donoo.kkkk."),
        ("x = f(1.5e3)  # why\n", "n.o.co00000o..#####."),
        ("a.b (None)\n", "noc.okkkko."),  # with white space before the parenthesis
        ("a = b'x' 'y'\n", "n.o.ssss.sss."),
        ("if (a) : b[0j]\n", "kk.ono.o.no00o."),
        ("match (x)\n", "ccccc.ono."),  # a soft keyword is a name
        ("a\\\n+ b\n", "n..o.n."),
        ("é('日')", "cossso"),
        ("@g\ndef f(): ...\n", "on.kkk.dooo.ooo."),
        ("x = '''a\n b''' + c\n", "n.o.ssssssssss.o.n."),
        ("not(x)\n", "kkkono."),
        ("", ""),
        ("\n\n", ".."),
    ],
)
def test_kinds_by_hand(text, kinds):
    assert labelled(text) == kinds


@pytest.mark.parametrize(
    "string",
    [
        "f'{a}'",
        "f''",
        "rf'{a!r:>{width}} {{b}}'",
        "f'''{\na + (b)}\n'''",
        "F'a {f\"{x} y\"} b'",
    ],
)
def test_an_f_string_is_one_string(string):
    """In every version of Python, with what is in its braces, and next to others."""
    text = f"x = g({string}) + y\n"
    assert labelled(text) == "n.o.co" + "s" * len(string) + "o.o.n."


@pytest.mark.parametrize(
    "text", ["x = $\n", "a ! b\n", "a ?\n", "x = 'a\n", "(\n", "'''", "  a\n b\n"]
)
def test_what_is_not_python(text):
    with pytest.raises((SyntaxError, tokenize.TokenError)):
        tagger.label(text)


def test_breaks_are_where_logical_lines_end():
    lines = ["x = (1,\n  2)\n", "\n", "# note\n", "s = '''\n\n'''; y = f'''{\n1}'''\n", "z"]
    _, breaks = tagger.label("".join(lines))
    assert breaks.tolist() == np.cumsum([len(line) for line in lines]).tolist()


def test_pieces_are_whole_logical_lines():
    text = "a = 1\n" * 5 + "b = '''" + "x" * 30 + "'''\n" + "c = 2\n"
    source = tagger.Source("a.py", text, *tagger.label(text))
    cut = [text[piece] for piece in tagger.pieces(source, 14)]
    assert "".join(cut) == text
    assert cut[:3] == ["a = 1\na = 1\n", "a = 1\na = 1\n", "a = 1\n"]
    assert cut[3:5] == ["b = '''" + "x" * 7, "x" * 14]
    assert max(map(len, cut)) == 14
    assert cut[-1].endswith("c = 2\n")


def test_characters_are_numbered():
    assert tagger.encode("\n\t ~é\x0c日😀").tolist() == [1, 2, 3, 97, 0, 0, 0, 0]
    assert tagger.encode("a").dtype == np.int32
    assert tagger.encode("").shape == (0,)


@pytest.fixture
def library(tmp_path):
    for k in range(60):
        folder = tmp_path / f"p{k % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"m{k}.py").write_text(f"x{k} = {k}\n" * 50, encoding="utf-8")
    (tmp_path / "bad.py").write_text("x = 'a\n", encoding="utf-8")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "t.py").write_text("t\n", encoding="utf-8")
    return tmp_path


def test_files_go_where_their_path_says(library):
    once = tagger.load(folder=library)
    assert once.skipped == 2
    paths = [{source.path for source in part} for part in once[:3]]
    assert len(set.union(*paths)) == sum(map(len, paths)) == 60
    assert all(paths)
    assert "test/t.py" not in set.union(*paths)
    # whatever other files there are
    for k in range(0, 60, 2):
        (library / f"p{k % 3}" / f"m{k}.py").unlink()
    again = tagger.load(folder=library)
    for part, before in zip(again[:3], paths, strict=True):
        assert {source.path for source in part} <= before


def test_parts_and_files_are_bounded(library):
    sources = tagger.load(folder=library, characters=1000, held_out=130, per_file=105)
    for part, limit in zip(sources[:3], (1000, 130, 130), strict=True):
        assert limit - 110 < sum(len(source.text) for source in part) <= limit
        for source in part:
            assert len(source.text) <= 105
            assert source.text.endswith("\n")
            assert len(source.kinds) == len(source.text) == source.breaks[-1]


def test_the_standard_library():
    sources = tagger.load(characters=30_000, held_out=5_000)
    words = {kind: set() for kind in range(len(tagger.KINDS))}
    for source in sources.train:
        edges = np.flatnonzero(np.diff(source.kinds)) + 1
        for part in np.split(np.arange(len(source.text)), edges):
            words[source.kinds[part[0]]].add(source.text[part[0] : part[-1] + 1])
    assert all(words.values())
    assert all(word.isspace() or set(word) <= {"\\", "\n", " "} for word in words[tagger.SPACE])
    assert all(keyword.iskeyword(word) for word in words[tagger.KEYWORD])
    for kind in (tagger.NAME, tagger.CALL, tagger.DEFINITION):
        assert all(word.isidentifier() and not keyword.iskeyword(word) for word in words[kind])
    assert all(word.startswith("#") for word in words[tagger.COMMENT])
    assert all(word[-1] in "'\"" for word in words[tagger.STRING])
    assert not any(character.isalnum() for word in words[tagger.OPERATOR] for character in word)
