"""What other programs make of an ONNX model, in a process of its own that may end or be ended."""

import concurrent.futures
import multiprocessing

import numpy as np

SIZES = (5, 3, 4, 7)  # of the axes that a model leaves open, one after another
LIMIT = 6 * 2**30  # bytes


def feeds_of(model, x, rng):
    """Values of all inputs of a graph: `x` the one that is read, lengths, tokens, zeros of states.

    None where an input has no shape.
    """
    from onnx import helper

    sizes, feeds = {}, {}
    constants = {tensor.name for tensor in model.graph.initializer}
    for info in model.graph.input:
        tensor = info.type.tensor_type
        if info.name in constants:
            continue
        if not tensor.HasField("shape") or tensor.elem_type not in (1, 6, 7, 10, 11):
            return None
        shape = []
        for axis in tensor.shape.dim:
            name = axis.dim_param or f"{info.name} {len(shape)}"
            if not axis.HasField("dim_value") and name not in sizes:
                if len(sizes) == len(SIZES):
                    return None
                sizes[name] = SIZES[len(sizes)]
            shape.append(axis.dim_value if axis.HasField("dim_value") else sizes[name])
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if max(shape, default=1) > 999:
            return None
        if dtype.kind == "i":
            high = 6 if len(shape) == 1 else 2
            feeds[info.name] = rng.integers(len(shape) == 1, high, size=shape).astype(dtype)
        elif info.name == x:
            feeds[info.name] = rng.normal(size=shape).astype(dtype)
        else:
            feeds[info.name] = np.zeros(shape, dtype)
    return feeds


def limit_memory():
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))


def computed(data, feeds):
    """The outputs of onnxruntime, or of ONNX's reference, by name; a text where both refuse."""
    import onnx
    import onnxruntime
    from onnx.reference import ReferenceEvaluator

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # whatever it says
        said = f"{type(error).__name__}: {str(error)[:300]}"
    model = onnx.load_from_string(data)
    names = [output.name for output in model.graph.output]
    try:
        onnx.checker.check_model(model)
        if any(node.op_type in ("LSTM", "GRU", "RNN") for node in model.graph.node):
            return said
        return dict(zip(names, ReferenceEvaluator(model).run(None, feeds), strict=True))
    except Exception:
        return said


class Oracle:
    """A process that computes what others make of a model; another one where it ends."""

    def __init__(self):
        self._pool = None

    def __call__(self, data, feeds, seconds=60):
        """The outputs by name; a text where nobody runs the model."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(
                1, mp_context=context, initializer=limit_memory
            )
        try:
            return self._pool.submit(computed, data, feeds).result(timeout=seconds)
        except (concurrent.futures.process.BrokenProcessPool, TimeoutError) as error:
            self.close()
            return f"{type(error).__name__}"

    def close(self):
        """End the process."""
        if self._pool is not None:
            for process in list(self._pool._processes.values()):
                process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None
