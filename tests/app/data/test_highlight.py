import re
from html.parser import HTMLParser

import numpy as np
import pytest

from gatedrnn._app.data import highlight, tagger

TEXT = 'def f(a):\n\treturn "<b> & \x1b[31m" + a  # é\n\n'


class Reader(HTMLParser):
    """The text in the spans of a page's `pre`, with the class and title that hold at each."""

    def __init__(self):
        super().__init__()
        self.stack, self.found, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag != "meta":
            self.stack.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        if any(tag == "pre" for tag, _ in self.stack):
            self.found.append((data, self.stack[-1][1]))


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.stack == []
    return reader


@pytest.fixture(scope="module")
def kinds():
    return tagger.label(TEXT)[0]


def test_a_page_shows_the_text(kinds):
    reader = read(highlight.to_html(TEXT, kinds, kinds, title="<a.py>"))
    assert "".join(data for data, _ in reader.found) == TEXT.replace("\x1b", "\ufffd")
    assert "b" not in reader.tags
    assert not any("e" in attributes.get("class", "").split() for _, attributes in reader.found)
    spans = {data: attributes.get("class") for data, attributes in reader.found}
    assert spans["def"] == f"k{tagger.KEYWORD}"
    assert spans["f"] == f"k{tagger.DEFINITION}"
    assert spans["# é"] == f"k{tagger.COMMENT}"


def test_a_page_needs_nothing_else(kinds):
    page = highlight.to_html(TEXT, kinds, kinds, title="a.py")
    assert not re.search(r"https?:|src=|url\(|@import", page)
    for place in range(len(tagger.KINDS)):
        assert f".k{place} {{" in page
    for kind in tagger.KINDS:
        assert page.count(f"--{kind}: #") == 2  # by day and by night


def test_errors_are_marked(kinds):
    predicted = kinds.copy()
    predicted[:3] = tagger.NAME
    predicted[9] = tagger.STRING  # a line break
    page = highlight.to_html(TEXT, predicted, kinds, title="a.py")
    wrong = [(data, a) for data, a in read(page).found if "e" in a.get("class", "").split()]
    assert [data for data, _ in wrong] == ["def", "↵"]
    assert wrong[0][1]["title"] == "name, in truth keyword"
    assert f"{1 - 4 / len(TEXT):.2%} of {len(TEXT)} characters" in page


def test_a_terminal_shows_the_text(kinds):
    predicted = kinds.copy()
    predicted[:3] = tagger.NAME
    shown = highlight.to_ansi(TEXT, predicted, kinds)
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == TEXT.replace("\x1b", "\ufffd")
    underlined = re.findall(r"\x1b\[38;5;\d+;4;48;5;52m(.*?)\x1b\[0m", shown)
    assert underlined == ["def"]


def test_kinds_are_one_for_each_character(kinds):
    for arguments, name in (((kinds[1:], kinds), "predicted"), ((kinds, kinds[1:]), "actual")):
        with pytest.raises(ValueError, match=rf"{name}: got shape \({len(TEXT) - 1},\), expected"):
            highlight.to_ansi(TEXT, *arguments)


def test_no_text_at_all():
    nothing = np.zeros(0, np.uint8)
    assert highlight.to_ansi("", nothing, nothing) == ""
    assert "100.00% of 0 characters" in highlight.to_html("", nothing, nothing, title="empty")
