"""The kernels of this library, all made with Pallas.

A kernel is taken unasked where it has been measured to be faster than a scan: that for GPUs by
an LSTM, on an H200 (`benchmarks/results`) and its like. Elsewhere
`gr.BPTT(kernel="pallas")` asks for it.
"""

from gatedrnn._src.kernels.mosaic import MOSAIC
from gatedrnn._src.kernels.triton import TRITON

MEASURED = (TRITON, MOSAIC)
KERNELS = tuple(kernel._replace(preferred=lambda carry, device_kind: False) for kernel in MEASURED)
