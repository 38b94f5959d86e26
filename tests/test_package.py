"""The package says its version, and its page elsewhere links to nothing that it lacks."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import gatedrnn as gr
from gatedrnn import _version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_is_that_of_the_project():
    assert gr.__version__ == PROJECT["project"]["version"]


def test_a_checkout_says_its_own_version(tmp_path):
    """Whatever is installed beside it, and however long ago."""
    checkout = tmp_path / "pyproject.toml"
    checkout.write_text('[project]\nname = "gatedrnn"\nversion = "7.1"\n')
    assert _version.read(checkout) == "7.1"


@pytest.mark.parametrize(
    "text", [None, "[project", '[project]\nname = "other"\nversion = "7.1"', "[tool.other]"]
)
def test_a_package_without_a_checkout_says_what_was_installed(tmp_path, monkeypatch, text):
    """Nor does a file of another project count."""
    beside = tmp_path / "pyproject.toml"
    if text is not None:
        beside.write_text(text)
    monkeypatch.setattr(metadata, "version", {"gatedrnn": "0.7"}.get)
    assert _version.read(beside) == "0.7"

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert _version.read(beside) == "0+unknown"


CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def test_the_long_description_links_to_nothing_of_the_repository():
    """It is the README, of which code stays as it is, and anchors and addresses do."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = readme
    for rule in hook["substitutions"]:
        assert re.search(rule["pattern"], text)
        text = re.sub(rule["pattern"], rule["replacement"], text)
    assert CODE.findall(text) == CODE.findall(readme)
    prose = CODE.sub("", text)
    targets = re.findall(r"\]\(([^)]*)\)|^\[.*?\]: *(\S+)|(?:src|href)=\"([^\"]*)\"", prose, re.M)
    targets = [target for groups in targets for target in groups if target]
    assert any(target.startswith("#") for target in targets)
    assert [t for t in targets if not t.startswith(("#", "https://"))] == []
