"""The pictures show the data that they are given, and say what they need."""

import subprocess
import sys

import numpy as np
import pytest

import gatedrnn as gr
from gatedrnn import diagnostics

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

T, B, K = 6, 4, 3
RNG = np.random.default_rng(0)


def positive(*shape):
    return RNG.uniform(0.1, 1.0, shape)


@pytest.fixture
def ax():
    """Axes of one's own; every figure is closed afterwards."""
    yield pyplot.subplots()[1]
    pyplot.close("all")


def lines(ax):
    """What is drawn, by label."""
    return {line.get_label(): line.get_xydata() for line in ax.get_lines()}


def draws(ax):
    """Nothing fails where the picture is made."""
    ax.figure.canvas.draw()
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_gradient_norms(ax):
    """A line for each leaf: the median of the rows, over steps from 1; zeros are left out."""
    norms = gr.LSTMCarry(positive(T, B), positive(T))
    norms.h[1, :2] = 0.0
    norms.h[2] = 0.0
    assert gr.plot.gradient_norms(norms, ax=ax) is ax
    drawn = lines(ax)
    np.testing.assert_array_equal(drawn["‖δh‖"][:, 0], np.arange(1, T + 1))
    np.testing.assert_allclose(drawn["‖δh‖"][3:, 1], np.median(norms.h[3:], axis=1))
    np.testing.assert_allclose(drawn["‖δh‖"][1, 1], np.median(norms.h[1, 2:]))
    assert np.isnan(drawn["‖δh‖"][2, 1])
    np.testing.assert_allclose(drawn["‖δc‖"][:, 1], norms.c)
    assert ax.get_yscale() == "log"
    draws(ax)


def test_gradient_reach(ax):
    """A line for each cell over the distance from 0."""
    reach = {"LSTM": positive(T, B), "GRU": positive(T, 2, 2)}
    assert gr.plot.gradient_reach(reach, ax=ax) is ax
    for name, values in reach.items():
        want = np.stack([np.arange(T), np.median(values.reshape(T, -1), axis=1)], axis=1)
        np.testing.assert_allclose(lines(ax)[name], want)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["LSTM", "GRU"]
    draws(ax)


def test_jacobian_norms(ax):
    """Norms and bound over the distance, `T` at index 0."""
    norms, bound = positive(T, B), 1.1 ** np.arange(T, 0, -1)
    assert gr.plot.jacobian_norms(norms, bound, ax=ax) is ax
    measured, limit = (line.get_xydata() for line in ax.get_lines())
    np.testing.assert_array_equal(measured[:, 0], np.arange(T, 0, -1))
    np.testing.assert_allclose(measured[:, 1], np.median(norms, axis=1))
    np.testing.assert_allclose(limit[:, 1], bound)
    draws(ax)


def test_singular_values(ax):
    """The largest, the middle and the smallest of each step."""
    values = -np.sort(-positive(T, B, K), axis=-1)
    assert gr.plot.singular_values(values, ax=ax) is ax
    for i, name in enumerate(("largest", "median", "smallest")):
        np.testing.assert_allclose(lines(ax)[name][:, 1], np.median(values[..., i], axis=1))
    draws(ax)


def test_lyapunov_exponents(ax):
    """A faint line for each row, the median with points."""
    exponents = -np.sort(positive(B, K), axis=-1)
    assert gr.plot.lyapunov_exponents(exponents, ax=ax) is ax
    drawn = [line.get_ydata() for line in ax.get_lines()]
    np.testing.assert_allclose(np.stack(drawn[:B]), exponents)
    np.testing.assert_allclose(drawn[B], np.median(exponents, axis=0))
    draws(ax)


def path_in(directions):
    coordinates = np.linspace(0.2, 0.4, 5 * directions).reshape(5, directions)
    return diagnostics.DescentPath(coordinates, positive(5), positive(5))


def test_loss_along_a_line(ax):
    """The loss, the paths on it, the slice's own extent."""
    surface = diagnostics.LossSlice((np.linspace(0, 1, T),), positive(T) ** 6)
    path = path_in(1)
    assert gr.plot.loss_slice(surface, {"clipped": path}, ax=ax) is ax
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), surface.losses)
    want = np.stack([path.coordinates[:, 0], path.losses], axis=1)
    np.testing.assert_allclose(lines(ax)["clipped"], want)
    assert ax.get_xlim() == (0, 1)
    assert ax.get_yscale() == "log"
    draws(ax)


def test_loss_over_a_plane(ax):
    """The first direction to the right; a point that is not finite is left out."""
    surface = diagnostics.LossSlice((np.linspace(0, 1, 4), np.linspace(2, 3, 5)), positive(4, 5))
    surface.losses[0, 0] = np.inf
    path = path_in(2)
    assert gr.plot.loss_slice(surface, {"clipped": path}, ax=ax) is ax
    (mesh,) = ax.collections
    shown = mesh.get_array().reshape(5, 4)
    np.testing.assert_allclose(shown.filled(np.inf), surface.losses.T)
    np.testing.assert_allclose(lines(ax)["clipped"], path.coordinates)
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 1), (2, 3))
    draws(ax)


def test_gates():
    """A map for each gate between 0 and 1, its units sorted, the labels along time."""
    gates = {"i": positive(T, K), "f": positive(T, K)}
    axes = gr.plot.gates(gates, list("abcdef"))
    for each, gate in zip(axes, gates.values(), strict=True):
        (image,) = each.get_images()
        np.testing.assert_allclose(image.get_array(), gate[:, np.argsort(gate.mean(0))].T)
        assert image.get_clim() == (0, 1)
    assert [text.get_text() for text in axes[-1].get_xticklabels()] == list("abcdef")
    axes[0].figure.canvas.draw()
    again = gr.plot.gates({"i": gates["i"]}, ax=axes[0])
    assert list(again) == [axes[0]]
    pyplot.close("all")


def test_saturation(ax):
    """A point for each unit; the shares of the whole gate in the legend."""
    shares = diagnostics.Saturation(np.array([0.0, 0.5]), np.array([1.0, 0.25]))
    assert gr.plot.saturation({"f": shares}, ax=ax) is ax
    points = ax.get_lines()[0].get_xydata()
    np.testing.assert_allclose(points, [[0, 1], [0.5, 0.25]])
    (text,) = ax.get_legend().get_texts()
    assert text.get_text() == "f: 25% nearly closed, 62% nearly open"
    draws(ax)


def test_a_new_figure_where_no_axes_are_given():
    """One for each call."""
    one, other = (gr.plot.lyapunov_exponents(np.zeros(K)) for _ in range(2))
    assert one.figure is not other.figure
    pyplot.close("all")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gr.plot.gradient_norms(gr.GRUCarry(np.zeros(()))), r"norms: got shape \(\)"),
        (lambda: gr.plot.jacobian_norms(np.ones(3), np.ones(2)), r"bound: got shape \(2,\)"),
        (lambda: gr.plot.singular_values(np.ones(3)), r"values: got shape \(3,\)"),
        (lambda: gr.plot.lyapunov_exponents(np.ones(())), r"exponents: got shape \(\)"),
        (lambda: gr.plot.gates({"i": np.ones((T, B, K))}), r"gates\['i'\].*one row of the batch"),
        (lambda: gr.plot.gates({"i": np.ones((T, K))}, "ab"), "labels: got 2, expected 6"),
        (lambda: gr.plot.gates({"i": np.ones((T, K))}, ax=[1, 2]), "ax: got 2 axes, expected 1"),
        (
            lambda: gr.plot.loss_slice(
                diagnostics.LossSlice((np.ones(2),), np.ones(2)), {"a": path_in(2)}
            ),
            r"paths\['a'\]: got coordinates of shape \(5, 2\)",
        ),
    ],
)
def test_errors(call, message):
    """Name the argument, what it got and what it expected."""
    with pytest.raises(ValueError, match=message):
        call()


def test_without_matplotlib():
    """The library works; a picture says what to install."""
    program = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import gatedrnn as gr
try:
    gr.plot.lyapunov_exponents([0.0])
except ModuleNotFoundError as error:
    assert str(error) == (
        'gr.plot needs matplotlib, which is not installed: pip install "gatedrnn[plot]"'
    )
else:
    raise AssertionError("no error")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_library_does_not_import_matplotlib():
    """Not even where it is installed."""
    program = "import sys, gatedrnn; assert 'matplotlib' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
