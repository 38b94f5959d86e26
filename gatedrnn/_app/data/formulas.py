"""Random boolean formulas: as Python expressions, as trees, and what each part of them is worth.

A formula is made of `True`, `False`, `not`, `and`, `or` and the parentheses that it needs, parsed
with `ast`. Its tree is binary: `a and b and c` is `(a and b) and c`. The depth of a leaf is 0.

Axes: L tokens of the text, N nodes of the tree, K = 2 children of a node.
"""

import ast
import re
from typing import NamedTuple

import numpy as np

TOKENS = ("False", "True", "not", "and", "or", "(", ")")  # of the text; a token is its place here
NODES = TOKENS[:5]  # kinds of nodes; the leaves come first
ABSENT = -1  # in the place of a child that a node does not have
FALSE, TRUE, NOT, AND, OR = range(len(NODES))


class Formula(NamedTuple):
    """One formula, read in two ways."""

    text: str  # a Python expression
    tokens: np.ndarray  # int32 [L], places in TOKENS, for a model that reads along the text
    nodes: np.ndarray  # int32 [N], places in NODES; children before parents, the root last
    children: np.ndarray  # int32 [N, K], nodes, left before right, or ABSENT
    values: np.ndarray  # bool [N], the truth of each node; the last is the formula's
    depth: int  # how many operators lie above the deepest leaf


class Formulas(NamedTuple):
    """Formulas without a repetition; of each depth as many are true as false."""

    train: tuple[Formula, ...]
    validation: tuple[Formula, ...]  # of the depths of `train`
    deeper: tuple[Formula, ...]  # of depths that `train` does not contain


def parse(text: str) -> Formula:
    """Read a formula. Raises `ValueError` where it contains anything else."""
    nodes: list[int] = []
    children: list[tuple[int, int]] = []
    values: list[bool] = []
    depths: list[int] = []

    def add(kind: int, *parts: int) -> int:
        of = [values[part] for part in parts]
        table = (False, True, not of[0] if of else False, all(of), any(of))
        nodes.append(kind)
        children.append((*parts, ABSENT, ABSENT)[:2])  # type: ignore[arg-type]
        values.append(table[kind])
        depths.append(1 + max((depths[part] for part in parts), default=-1))
        return len(nodes) - 1

    def visit(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=bool(value)):
                return add(TRUE if value else FALSE)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return add(NOT, visit(operand))
            case ast.BoolOp(op=op, values=operands):
                left = visit(operands[0])
                for operand in operands[1:]:
                    left = add(AND if isinstance(op, ast.And) else OR, left, visit(operand))
                return left
        raise ValueError(f"text: got {ast.unparse(node)!r}, expected a formula of {NODES}")

    visit(ast.parse(text, mode="eval").body)
    words = re.findall(r"\w+|[()]", text)
    return Formula(
        text=text,
        tokens=np.array([TOKENS.index(word) for word in words], np.int32),
        nodes=np.array(nodes, np.int32),
        children=np.array(children, np.int32),
        values=np.array(values),
        depth=depths[-1],
    )


def random_text(rng: np.random.Generator, depth: int, value: bool) -> str:
    """A formula of exactly this depth and value.

    It grows from the root: the operator is drawn first, then the values of its operands, evenly
    among those that make it worth `value`. So neither operator says anything about the value. One
    operand of two, either, has the depth that is left, the other any depth up to it.
    """
    return _grow(rng, depth, value)[0]


def _grow(rng: np.random.Generator, depth: int, value: bool) -> tuple[str, int]:
    """A formula and the kind of its root."""
    if depth == 0:
        return str(value), int(value)
    kind = int(rng.choice([NOT, AND, OR], p=[0.2, 0.4, 0.4]))
    if kind == NOT:
        text, below = _grow(rng, depth - 1, not value)
        return f"not {_wrap(text, below, kind, right=True)}", kind
    # the value that both operands must have for the operator to give it, or else one of them
    rare = value == (kind == AND)
    pairs = [(value, value)] if rare else [(value, value), (value, not value), (not value, value)]
    values = pairs[rng.integers(len(pairs))]
    depths = [depth - 1, int(rng.integers(depth))]
    if rng.integers(2):
        depths.reverse()
    sides = [
        _wrap(*_grow(rng, d, v), kind, right=right)
        for d, v, right in zip(depths, values, (False, True), strict=True)
    ]
    return f" {NODES[kind]} ".join(sides), kind


def _wrap(text: str, kind: int, parent: int, *, right: bool) -> str:
    """`text` in parentheses where Python would else read another tree."""
    looser = kind > parent  # `or` binds less tightly than `and`, and that less than `not`
    again = kind == parent and right and kind != NOT
    return f"({text})" if looser or again else text


def make(
    *,
    seed: int,
    train_depth: int = 5,
    deeper: int = 8,
    per_depth: int = 1000,
    validation_fraction: float = 0.15,
) -> Formulas:
    """Formulas of depths 1 to `train_depth`, and of the depths after it to `deeper` for the test.

    Each depth to train on has `per_depth` formulas, `validation_fraction` of them for validation,
    or for small depths fewer: as many as drawing 20 times that many finds. Each deeper one has
    half.
    """
    rng = np.random.default_rng(seed)
    train: list[Formula] = []
    validation: list[Formula] = []
    test: list[Formula] = []
    for depth in range(1, deeper + 1):
        shallow = depth <= train_depth
        wanted = per_depth // (2 if shallow else 4)
        found = [_distinct(rng, depth, value, wanted) for value in (False, True)]
        count = min(map(len, found))
        cut = round(count * validation_fraction) if shallow else 0
        for texts in found:
            formulas = [parse(text) for text in texts[:count]]
            validation += formulas[:cut]
            (train if shallow else test).extend(formulas[cut:])
    parts = (train, validation, test)
    return Formulas(*(tuple(part[k] for k in rng.permutation(len(part))) for part in parts))


def _distinct(rng: np.random.Generator, depth: int, value: bool, wanted: int) -> list[str]:
    """Up to `wanted` different formulas, in random order."""
    texts: dict[str, None] = {}  # a set that keeps its order
    for _ in range(20 * wanted):
        texts[random_text(rng, depth, value)] = None
        if len(texts) == wanted:
            break
    found = list(texts)
    return [found[k] for k in rng.permutation(len(found))]
