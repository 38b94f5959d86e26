"""Illegal calls, thousands of them, raise an error of our own: one line that names the argument."""

import inspect
import re

import illegal
import pytest

import gatedrnn as gr
from gatedrnn import diagnostics, plot

CALLS = list(illegal.calls())

# records, which hold what they are given, and types to extend
NOT_CALLED = {"Cell", "Context", "Forest", "ForestSizes", "Layer", "Rule", "Shared", "TreeCell"}


def fault(case):
    """What is wrong with what an illegal call does; None where it does as it should."""
    try:
        case.call()
    except (TypeError, ValueError) as error:
        message = str(error)
        if "\n" in message:
            return f"lines: {message}"
        if "got" not in message or "expected" not in message:
            return f"not our words: {message}"
        # in front, or as what the argument in front does not fit
        if not re.search(
            rf"^[^:]*\b({case.argument})\b|(of|as in|for) '?({case.argument})\b", message
        ):
            return f"does not name the argument: {message}"
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_illegal_calls_raise_our_own_errors(call):
    call.function(**call.needed)  # the legal call
    faults = {case.name: fault(case) for case in illegal.illegal(call)}
    assert faults
    wrong = {name: words for name, words in faults.items() if words is not None}
    assert not wrong, "\n".join(f"{name}: {words}" for name, words in wrong.items())


@pytest.mark.parametrize("wrong", illegal.of_owners(None), ids=lambda mistake: mistake.name)
def test_layers_of_a_stack(wrong):
    def one_wrong(stack):
        return illegal.Illegal("", "layers", lambda: stack(gr.dense(2), wrong.value))

    assert fault(one_wrong(gr.stack)) is None
    assert fault(one_wrong(lambda *layers: gr.Stack(layers))) is None
    assert fault(illegal.Illegal("", "layers", lambda: gr.Stack(wrong.value))) is None


def test_every_public_function_is_called():
    """A new one needs a row in the table."""
    called = {call.function for call in CALLS}
    called |= {gr.stack, gr.Stack}  # of any number of layers, below
    modules = {"": gr, "diagnostics.": diagnostics, "plot.": plot}
    missing = []
    for prefix, module in modules.items():
        for name in module.__all__:
            value = getattr(module, name)
            record = isinstance(value, type) and issubclass(value, tuple)
            if callable(value) and not record and name not in NOT_CALLED and value not in called:
                missing.append(prefix + name)
    assert missing == []


def test_every_argument_has_a_kind():
    """Nothing is left out unseen."""
    without = {
        name
        for call in CALLS
        for name in inspect.signature(call.function).parameters
        if name not in illegal.KINDS and name not in call.kinds
    }
    assert without == set()
