"""The kernels of this library, all made with Pallas."""

from gatedrnn._src.kernels.mosaic import MOSAIC
from gatedrnn._src.kernels.triton import TRITON

KERNELS = (TRITON, MOSAIC)
