"""What is read from the text of compiled programs: trips, operations, collectives, what is wide."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from benchmarks import hlo

# As XLA writes for a TPU: no trip counts, layouts with parentheses within the types of tuples, a
# limit that is handed to the inner loop, copies of counters, and tables of sources in between.
TPU = """\
HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[8]{0:T(256)})->f32[8]{0:T(256)}}

FileNames
1 "a file.py"

%fused (p: f32[8]) -> (f32[8], f32[8]) {
  %p = f32[8]{0:T(256)} parameter(0)
  %negate.1 = f32[8]{0:T(256)} negate(%p)
  ROOT %both = (f32[8]{0:T(256)}, f32[8]{0:T(256)}) tuple(%negate.1, %p)
}

%step (arg: (s32[], f32[8], s32[])) -> (s32[], f32[8], s32[]) {
  %arg = (s32[]{:T(128)}, f32[8]{0:T(256)S(1)}, s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %i.copy = s32[]{:T(128)S(6)} copy(%i)
  %four = s32[]{:T(128)} constant(4)
  %next = s32[]{:T(128)} add(%i.copy, %four)
  %x = f32[8]{0:T(256)S(1)} get-tuple-element(%arg), index=1
  %two = (f32[8]{0:T(256)S(1)}, f32[8]{0:T(256)}) fusion(%x), kind=kLoop, calls=%fused
  %y = f32[8]{0:T(256)} get-tuple-element(%two), index=0
  %room = f32[8]{0:T(256)} custom-call(), custom_call_target="AllocateBuffer"
  %start = (f32[8]{0:T(256)}, f32[8]{0:T(256)S(1)}, u32[]) copy-start(%y)
  %z = f32[8]{0:T(256)S(1)} copy-done(%start)
  %n = s32[]{:T(128)} get-tuple-element(%arg), index=2
  ROOT %out = (s32[]{:T(128)}, f32[8]{0:T(256)S(1)}, s32[]{:T(128)}) tuple(%next, %z, %n)
}

%more_steps (arg.1: (s32[], f32[8], s32[])) -> pred[] {
  %arg.1 = (s32[]{:T(128)}, f32[8]{0:T(256)S(1)}, s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  %n.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=2
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %n.1), direction=LT
}

%chunk (arg.2: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg.2 = (s32[]{:T(128)}, f32[8]{0:T(256)S(1)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%arg.2), index=0
  %one = s32[]{:T(128)} constant(1)
  %next.2 = s32[]{:T(128)} add(%one, %i.2)
  %x.2 = f32[8]{0:T(256)S(1)} get-tuple-element(%arg.2), index=1
  %zero = s32[]{:T(128)} constant(0)
  %ten = s32[]{:T(128)} constant(10)
  %given = (s32[]{:T(128)}, f32[8]{0:T(256)S(1)}, s32[]{:T(128)}) tuple(%zero, %x.2, %ten)
  %inner = (s32[]{:T(128)}, f32[8]{0:T(256)S(1)}, s32[]{:T(128)}) while(%given), \
condition=%more_steps, body=%step
  %x.3 = f32[8]{0:T(256)S(1)} get-tuple-element(%inner), index=1
  ROOT %out.2 = (s32[]{:T(128)}, f32[8]{0:T(256)S(1)}) tuple(%next.2, %x.3)
}

%more_chunks (arg.3: (s32[], f32[8])) -> pred[] {
  %arg.3 = (s32[]{:T(128)}, f32[8]{0:T(256)S(1)}) parameter(0)
  %limit = s32[]{:T(128)} constant(7)
  %i.3 = s32[]{:T(128)} get-tuple-element(%arg.3), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.3, %limit), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x.9 = f32[8]{0:T(256)} parameter(0)
  %two.9 = s32[]{:T(128)} constant(2)
  %start.9 = s32[]{:T(128)} copy(%two.9)
  %given.9 = (s32[]{:T(128)}, f32[8]{0:T(256)S(1)}) tuple(%start.9, %x.9)
  %outer = (s32[]{:T(128)}, f32[8]{0:T(256)S(1)}) while(%given.9), condition=%more_chunks, \
body=%chunk
  ROOT %x.8 = f32[8]{0:T(256)} get-tuple-element(%outer), index=1
}
"""


def test_loops_without_trip_counts():
    """From 2 to 7 by 1, and in each from 0 to 10 by 4: 5 and 3 trips."""
    outer, inner = hlo.loops(TPU)
    assert (outer.body, outer.trips, outer.runs) == ("chunk", 5, 5)
    assert (inner.body, inner.trips, inner.runs) == ("step", 3, 15)
    assert outer.operations == {"add": 1, "while": 1}
    # a tuple of tiled arrays is an operation, the end of a copy and a place in memory are none
    assert inner.operations == {"copy": 1, "add": 1, "fusion": 1, "copy-start": 1}
    assert hlo.per_step(TPU, 10) == (5 * 2 + 15 * 4) / 10


def test_loops_with_trip_counts_and_calls():
    """As XLA writes for a GPU: the operations of a call are those of the loop around it."""
    text = """\
%called (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %sin.1 = f32[4]{0} sine(%p)
}

%other (q: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  %cos.1 = f32[4]{0} cosine(%q)
  ROOT %tan.1 = f32[4]{0} tan(%cos.1)
}

%body (p.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p.1 = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%p.1), index=1
  %y = f32[4]{0} call(%x), to_apply=%called
  %b = s32[] custom-call(%y), custom_call_target="__cublas$gemm"
  %s = ((f32[4]{0}), f32[4]{0}) async-start(%x), calls=%called
  %z = f32[4]{0} conditional(%b, %x, %y), branch_computations={%called, %other}
  ROOT %out = (s32[], f32[4]{0}) tuple(%b, %z)
}

ENTRY %main (x.1: f32[4]) -> f32[4] {
  %x.1 = f32[4]{0} parameter(0)
  %w = (s32[], f32[4]{0}) while(%x.1), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"12"},"known_init_step":{"init":"0","step":"1"}}
  ROOT %last = f32[4]{0} get-tuple-element(%w), index=1
}
"""
    (loop,) = hlo.loops(text)
    branches = {"sine": 3, "cosine": 1, "tan": 1}  # one of the call, one of what runs beside it
    assert loop.operations == {"__cublas$gemm": 1, "conditional": 1} | branches
    assert (loop.trips, loop.runs) == (12, 12)
    assert hlo.per_step(text, 12) == 7


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("%lt.1 = pred[]{:T(512)} compare(%i.3, %limit)", "%lt.1 = pred[] fusion(%i.3)"),
        ("copy(%two.9)", "negate(%two.9)"),
        ("tuple(%start.9, %x.9)", "tuple(%x.9, %x.9)"),  # the parameter of number 0
        ("add(%one, %i.2)", "multiply(%one, %i.2)"),
        ("add(%one, %i.2)", "add(%i.2, %i.2)"),
    ],
)
def test_trips_that_depend_on_data_are_not_guessed(old, new):
    """Neither those of the loop, nor how often one inside it runs."""
    assert old in TPU
    text = TPU.replace(old, new)
    outer, inner = hlo.loops(text)
    assert (outer.trips, outer.runs, inner.trips, inner.runs) == (None, None, 3, None)
    with pytest.raises(ValueError, match="chunk: got a loop whose trips depend on data"):
        hlo.per_step(text, 10)


def test_what_xla_makes_here():
    """A loop of ten by XLA's CPU compiler."""

    def run(x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ x), None), x, None, 10)[0]

    text = jax.jit(run).lower(jnp.eye(4)).compile().as_text()
    assert [loop.runs for loop in hlo.loops(text)] == [10]
    assert hlo.per_step(text, 10) >= 2


def test_collectives_by_loop():
    text = """
%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%step.1 (p: f32[4]) -> f32[4] {
  ROOT %all-gather.7 = f32[4] all-gather(%p), dimensions={0}
}

%agreed (p: f32[4]) -> pred[] {
  ROOT %all-reduce.2 = pred[] all-reduce(%p), to_apply=%sum
}

%chunk (p: f32[4]) -> f32[4] {
  %while.2 = f32[4] while(%p), condition=%agreed, body=%step.1
  ROOT %all-reduce.3 = f32[4] all-reduce(%while.2), to_apply=%sum
}

%wrapped (q: f32[4]) -> f32[1] {
  ROOT %scatter = f32[1] reduce-scatter(%q), to_apply=%sum
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %begun = ((f32[4]), f32[1]) async-start(%p), calls=%wrapped
  %ended = f32[1] async-done(%begun)
  %while.5 = f32[4] while(%p), condition=%c, body=%chunk
  %all-reduce.1 = (f32[4], f32[4]{0:T(256)}) all-reduce-start(%while.5), to_apply=%sum
  ROOT %all-reduce.9 = f32[4] all-reduce-done(%all-reduce.1)
}
"""
    assert hlo.collectives(text) == {
        hlo.STEPS: Counter({"all-gather": 1, "all-reduce": 1}),
        hlo.CHUNKS: Counter({"all-reduce": 1}),
        hlo.OUTSIDE: Counter({"all-reduce": 1, "reduce-scatter": 1}),
    }


def test_what_goes_to_the_host():
    text = """
ENTRY %main (p: f32[4]) -> f32[4] {
  %sent = (f32[4]{0}, u32[], token[]) send(%p, %token), channel_id=1, is_host_transfer=true
  %asked = f32[4] custom-call(%p), custom_call_target="xla_ffi_python_gpu_callback"
  ROOT %product = f32[4] custom-call(%p), custom_call_target="__cublas$gemm"
}
"""
    assert hlo.host_transfers(text) == ["sent: send", "asked: xla_ffi_python_gpu_callback"]


def test_wide_floats():
    """In what XLA makes and in what it is given; integers and names are none."""
    assert hlo.wide_floats("%f64.1 = f32[2]{0} fusion(%s), s64[2] bf16[64]") == []
    assert hlo.wide_floats("%a = (f64[2,3]{1,0}, c128[]) tuple()") == ["c128[]", "f64[2,3]"]
    given = "tensor<2x3xf64> tensor<f64> tensor<4xcomplex<f64>> tensor<2xf32> tensor<64xi64>"
    assert len(hlo.wide_floats(given)) == 3


def test_a_line_that_does_not_close_is_refused():
    with pytest.raises(ValueError, match="expected its parentheses to close"):
        hlo.parsed("ENTRY %main (p: f32[4]) -> f32[4] {\n  %x = (f32[4], add(%p\n}\n")


def test_a_kernel_of_all_steps_is_one_operation():
    """Beside the loops, of which there may be none."""
    text = """HloModule kernels

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %forward = f32[4]{0} custom-call(%x), custom_call_target="__gpu$xla.gpu.triton"
  ROOT %reverse = f32[4]{0} custom-call(%forward), custom_call_target="tpu_custom_call"
}
"""
    assert hlo.per_step(text, 10) == 0.2
