"""Boolean formulas, read as trees and as text: which of them are true.

Axes: L tokens of the longest text, B formulas, N nodes of all their trees; D shards.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import optax  # type: ignore[import-untyped]
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

import gatedrnn as gr
from gatedrnn._app import config, task
from gatedrnn._app.config import Count, Seed, Settings, between, some_of
from gatedrnn._app.curve import GREY
from gatedrnn._app.data import formulas
from gatedrnn._app.data.formulas import NODES, TOKENS, Formula
from gatedrnn._app.data.ragged import pad
from gatedrnn._app.errors import CommandError
from gatedrnn._app.task import Criterion, Task
from gatedrnn._app.tasks.common import compiled, demand_batch, digest, shuffled
from gatedrnn._app.tasks.figures import coloured

Depth = Annotated[int, between(1, 12)]
TREES: dict[str, type[gr.TreeLSTM] | type[gr.TreeRNN]] = {
    "TreeLSTM": gr.TreeLSTM,
    "TreeRNN": gr.TreeRNN,
}
CHAIN = "LSTM"
FORMULA = 1000  # bytes of one in a forest, about


class Data(Settings, frozen=True):
    """About `per_depth` formulas of each depth up to `train_depth`, half as many of the others.

    Those of the depths from there to `test_depth` are for the test alone.
    """

    train_depth: Depth
    test_depth: Depth
    per_depth: Annotated[int, between(1, 100_000)]  # as many are drawn 20 times
    validation_fraction: config.Fraction
    seed: Seed


class Model(Settings, frozen=True):
    """For each of `readers` a cell of `features` units; what it ends in is classified."""

    readers: Annotated[tuple[str, ...], some_of(*TREES, CHAIN)]
    features: Count


class Config(config.Config, frozen=True):
    """The configuration of readers of formulas."""

    data: Data
    model: Model

    def make(self) -> "Formulas":
        """Generate the formulas."""
        return Formulas(self)


class Batch(NamedTuple):
    """Formulas in two ways of reading, and what they are worth.

    Where the forest has shards, the formulas of the first come first, then those of the next.
    """

    forest: gr.Forest  # for those that read trees
    kinds: np.ndarray  # int32 [N], of nodes; [D, N] with shards, N those of one
    tokens: np.ndarray  # int32 [L, B], for those that read text, padded
    lengths: np.ndarray  # int32 [B]
    values: np.ndarray  # float32 [B]: 1 for what is true


class TreeParams(NamedTuple):
    """Parameters of a reader of trees."""

    cell: Any
    readout: Any


class Reader(task.Model):
    """Formulas -> logits, of which one above 0 says true."""

    def logits(self, params: Any, batch: Any) -> jax.Array:
        """The logits of the formulas, [B]."""
        raise NotImplementedError

    def mean_loss(self, params: Any, batch: Any, key: jax.Array) -> jax.Array:
        """The mean cross-entropy."""
        logits = self.logits(params, batch)
        return optax.sigmoid_binary_cross_entropy(logits, batch.values).mean()


@dataclasses.dataclass(frozen=True)
class TreeReader(Reader):
    """Composes the parts of a formula into the whole; the root's state is classified."""

    cell: str
    features: int

    @property
    def composes(self) -> gr.TreeCell:
        """The cell."""
        return TREES[self.cell](self.features)

    def init(self, key: jax.Array) -> TreeParams:
        """New parameters."""
        first, second = jax.random.split(key)
        cell = self.composes.init(first, len(NODES))
        return TreeParams(cell, gr.dense(1).init(second, self.features))

    @compiled
    def logits(self, params: TreeParams, batch: Any) -> jax.Array:
        """The logits [B] from the roots of all trees at once."""
        xs = jax.nn.one_hot(batch.kinds, len(NODES), dtype=np.float32)
        roots, _ = gr.fold_tree(self.composes, params.cell, xs, batch.forest)
        hs = roots.h.reshape(-1, self.features)  # [B, H], of all shards
        return gr.dense(1).step(params.readout, (), hs)[1][:, 0]


@dataclasses.dataclass(frozen=True)
class ChainReader(Reader):
    """Reads the text from left to right; the last output is classified."""

    features: int
    in_features = None

    @property
    def net(self) -> Any:
        """The network."""
        embed = gr.embed(len(TOKENS), self.features)
        return gr.final(gr.stack(embed, gr.LSTM(self.features), gr.dense(1)))

    @compiled
    def logits(self, params: Any, batch: Any) -> jax.Array:
        """The logits [B] after the last token of each text."""
        return self.net.apply(params, batch.tokens, lengths=batch.lengths)[1][:, 0]


class Formulas(Task):
    """The formulas, and the networks that judge them."""

    criterion = Criterion("accuracy", "accuracy", higher=True, format=".1%")
    unit = "formula"
    models: dict[str, Reader]
    batch_axes = (*(0 for _ in gr.Forest._fields), 0, 1, 0, 0)  # of shards, and of formulas

    def __init__(self, settings: Config) -> None:
        data, model, train = settings.data, settings.model, settings.train
        if data.test_depth <= data.train_depth:
            raise CommandError(
                f"data.test_depth: got {data.test_depth}, expected more than data.train_depth ="
                f" {data.train_depth}"
            )
        demand_batch(train.batch, FORMULA)
        made = formulas.make(
            seed=data.seed,
            train_depth=data.train_depth,
            deeper=data.test_depth,
            per_depth=data.per_depth,
            validation_fraction=data.validation_fraction,
        )
        for name, part in made._asdict().items():
            if not part:
                raise CommandError(
                    f"data.per_depth: got {data.per_depth}, which leaves none for {name}"
                )
        self.train_depth = data.train_depth
        self.amount, self._seed = train.batch, train.seed
        self._drawn = _drawn(made.train, train.batch, train.seed)
        self.batches = _laid_out(self._drawn)
        held_out = (made.validation, made.deeper)  # two batches: the first is much smaller
        self.parts = tuple(collate(part) for part in held_out)
        self.depths = np.array([formula.depth for part in held_out for formula in part])
        self.values = np.concatenate([part.values for part in self.parts]) > 0
        self.beyond = range(data.train_depth + 1, data.test_depth + 1)
        self.models = {
            name: ChainReader(model.features) if name == CHAIN else TreeReader(name, model.features)
            for name in model.readers
        }
        self.data = f"{len(made.train):,} formulas of depths 1 to {data.train_depth}"
        self.held_out = f"{len(made.validation):,} others; {len(made.deeper):,} are deeper"
        read = (array for part in made for f in part for array in (f.tokens, f.values))
        self.stored = {"sha256": digest(*read)}

    def batch(self, step: int) -> Batch:
        """The formulas of a step: in every epoch the same batches, in a new order."""
        (chosen,) = shuffled(len(self.batches), 1, step, self._seed)
        return self.batches[chosen]

    def divided(self, count: int) -> "Formulas":
        """The same batches, each with its trees shared out to `count` shards."""
        task = copy.copy(self)
        task.batches = _laid_out(self._drawn, count)
        return task

    def evaluate(self, name: str, params: Any) -> dict[str, float]:
        """The accuracy at the depths trained on, at deeper ones, and at each of the latter."""
        right = self.right(name, params)
        known = self.depths <= self.train_depth
        deeper = {f"depth {depth}": self.depths == depth for depth in self.beyond}
        chosen = {"accuracy": known, "deeper": ~known, **deeper}
        return {measure: float(right[which].mean()) for measure, which in chosen.items()}

    def right(self, name: str, params: Any) -> np.ndarray:
        """True for the held-out formulas that the model judges rightly, [B]; see `depths`."""
        logits = [self.models[name].logits(params, part) for part in self.parts]
        return (np.concatenate([np.asarray(part) for part in logits]) > 0) == self.values

    def baselines(self) -> dict[str, float]:
        """The constant guess."""
        return {"always True": float(self.values[self.depths <= self.train_depth].mean())}

    def pictures(self, params: Mapping[str, Any]) -> dict[str, Figure | str]:
        """The accuracy over depth, beyond what was trained on too."""
        depths = np.unique(self.depths)
        figure = Figure(figsize=(7.0, 4.4), layout="constrained")
        axes = figure.add_subplot()
        axes.axvspan(0.5, self.train_depth + 0.5, color="#eeeeee", zorder=0)
        axes.axhline(0.5, color=GREY, lw=1.0, ls="--")
        for name, values, colour in coloured(params):
            right = self.right(name, values)
            at = [right[self.depths == depth].mean() for depth in depths]
            axes.plot(depths, at, marker="o", lw=2.0, color=colour, label=name)
        axes.set(xlabel="depth", xlim=(0.5, depths[-1] + 0.5), xticks=depths, ylim=(0.4, 1.02))
        axes.set_ylabel("accuracy on held-out formulas")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.text(0.6, 0.42, "depths trained on", color=GREY, fontsize=9)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 0.2))
        axes.spines[["top", "right"]].set_visible(False)
        return {"depth.png": figure}


def collate(
    chosen: Sequence[Formula],
    sizes: gr.ForestSizes | None = None,
    length: int | None = None,
    shards: int | None = None,
) -> Batch:
    """A batch of formulas, its forest padded to `sizes` and its texts to L = `length`.

    With `shards`, of which the number of formulas is a multiple, each has equally many.
    """
    forest = gr.forest([formula.children for formula in chosen], sizes, shards=shards)
    kinds = forest.place([formula.nodes for formula in chosen])
    beside = [chosen[k] for k in forest.place_roots(np.arange(len(chosen))).ravel()]
    return Batch(
        forest,
        kinds,
        *pad([formula.tokens for formula in beside], length=length),
        np.array([formula.values[-1] for formula in beside], np.float32),
    )


def _drawn(train: Sequence[Formula], size: int, seed: int) -> list[list[Formula]]:
    """`train` in batches.

    The formulas that are left over go into a last batch with some of the others again.
    """
    return [
        [train[k] for k in shuffled(len(train), size, step, seed)]
        for step in range(-(-len(train) // size))
    ]


def _laid_out(parts: Sequence[Sequence[Formula]], shards: int | None = None) -> list[Batch]:
    """Batches of one shape: that which the largest of them, and the largest shard, needs."""
    trees = [[formula.children for formula in part] for part in parts]
    sizes = gr.forest_sizes(trees, shards=shards)
    length = max(len(formula.tokens) for part in parts for formula in part)
    return [collate(part, sizes, length, shards) for part in parts]
