"""Cells whose kernels run on the CPU, in Pallas's interpreter."""

import dataclasses
import functools

from gatedrnn._src.base import rule_of

NAME = "interpreted"


def kernels_of(cell):
    """The kernels of a cell, none without a rule."""
    rule = rule_of(cell)
    return () if rule is None else rule.kernels


def interpreted(cell, kernel=None):
    """The cell with one kernel, by default the first of its own, named `NAME`."""
    kernel = kernels_of(cell)[0] if kernel is None else kernel
    values = {field.name: getattr(cell, field.name) for field in dataclasses.fields(cell)}
    return _class_of(type(cell), kernel)(**values)


@functools.cache  # equal cells share their programs
def _class_of(kind, kernel):
    loop = functools.partial(kernel.loop, interpret=True)
    kernel = kernel._replace(name=NAME, target="cpu", loop=loop)
    return type(kind.__name__, (kind,), {"rule": kind.rule._replace(kernels=(kernel,))})
