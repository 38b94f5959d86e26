import numpy as np
import pytest

from gatedrnn._app.data import formulas


@pytest.fixture(scope="module")
def made():
    return formulas.make(seed=0, train_depth=4, deeper=6, per_depth=120)


def test_a_formula_by_hand():
    formula = formulas.parse("True and not False or False and (True or True)")
    words = " ".join(formulas.TOKENS[token] for token in formula.tokens)
    assert words == "True and not False or False and ( True or True )"
    kinds = " ".join(formulas.NODES[node] for node in formula.nodes)
    assert kinds == "True False not and False True True or and or"
    assert formula.children.tolist() == [
        *([[-1, -1]] * 2), [1, -1], [0, 2], *([[-1, -1]] * 3), [5, 6], [4, 7], [3, 8]
    ]  # fmt: skip
    assert formula.values.tolist() == [
        True, False, True, True, False, True, True, True, False, True
    ]  # fmt: skip
    assert formula.depth == 3
    assert formula.nodes.dtype == formula.children.dtype == formula.tokens.dtype == np.int32


def test_long_chains_fold_to_the_left():
    formula = formulas.parse("True or False or False or True")
    assert formula.children[-1].tolist() == [4, 5]
    assert formula.depth == 3


@pytest.mark.parametrize("text", ["x", "1", "True & False", "True if True else False", "None"])
def test_nothing_else_is_a_formula(text):
    with pytest.raises(ValueError, match="expected a formula"):
        formulas.parse(text)


def test_values_are_what_python_says(made):
    for formula in made.train + made.validation + made.deeper:
        assert formula.values[-1] == eval(formula.text)


def test_every_node_has_the_value_of_its_children(made):
    table = [
        lambda: False,
        lambda: True,
        lambda a: not a,
        lambda a, b: a and b,
        lambda a, b: a or b,
    ]
    for formula in made.deeper:
        for place, (node, children) in enumerate(zip(formula.nodes, formula.children, strict=True)):
            present = children[children >= 0]
            assert np.all(present < place)
            assert formula.values[place] == table[node](*formula.values[present])
        # one tree: every node but the root is the child of one
        parents = formula.children[formula.children >= 0]
        assert sorted(parents) == list(range(len(formula.nodes) - 1))


def without(text, opening):
    """`text` without the parenthesis at `opening` and the one that closes it."""
    level = 0
    for closing in range(opening, len(text)):
        level += {"(": 1, ")": -1}.get(text[closing], 0)
        if level == 0:
            return text[:opening] + text[opening + 1 : closing] + text[closing + 1 :]


def test_every_parenthesis_is_needed(made):
    count = 0
    for formula in made.train[:150]:
        for opening in [k for k, character in enumerate(formula.text) if character == "("]:
            other = formulas.parse(without(formula.text, opening))
            assert other.nodes.tolist() != formula.nodes.tolist()
            count += 1
    assert count > 100


def test_depth_is_what_was_asked_for():
    rng = np.random.default_rng(0)
    for depth in range(8):
        for value in (False, True):
            formula = formulas.parse(formulas.random_text(rng, depth, value))
            assert formula.depth == depth
            assert formula.values[-1] == value


def test_each_depth_is_balanced_and_in_its_part(made):
    for part, depths in zip(made, ({1, 2, 3, 4}, {1, 2, 3, 4}, {5, 6}), strict=True):
        assert {formula.depth for formula in part} == depths
        for depth in depths:
            values = [formula.values[-1] for formula in part if formula.depth == depth]
            assert len(values) == 2 * sum(values)
    assert sum(formula.depth == 4 for formula in made.train) == 102
    assert sum(formula.depth == 6 for formula in made.deeper) == 60


def test_nothing_is_repeated(made):
    texts = [formula.text for part in made for formula in part]
    assert len(set(texts)) == len(texts)


def test_the_operator_says_nothing_about_the_value():
    rng = np.random.default_rng(1)
    roots = [
        [formulas.parse(formulas.random_text(rng, 2, value)).nodes[-1] for _ in range(1500)]
        for value in (False, True)
    ]
    counts = np.array([np.bincount(kinds, minlength=5) for kinds in roots])
    np.testing.assert_allclose(counts[0] / 1500, [0, 0, 0.2, 0.4, 0.4], atol=0.04)
    np.testing.assert_allclose(counts[1] / 1500, [0, 0, 0.2, 0.4, 0.4], atol=0.04)


def test_the_seed_decides(made):
    again = formulas.make(seed=0, train_depth=4, deeper=6, per_depth=120)
    other = formulas.make(seed=1, train_depth=4, deeper=6, per_depth=120)
    texts = [[formula.text for formula in each.train] for each in (made, again, other)]
    assert texts[0] == texts[1] != texts[2]
