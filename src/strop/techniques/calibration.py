"""Run a model on the calibration rows and watch its intermediate tensors, in bounded memory."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from strop.errors import NotApplicable

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

Arrays = Mapping[str, np.ndarray]
Batches = Callable[[], Iterable[Arrays]]
"""Starts a pass over the calibration rows; each batch holds the model's inputs by name."""

CHUNK_BYTES = 192 << 20
"""Intermediate tensors of one batch kept at once; more are watched in another pass."""


class Observer(Protocol):
    """Takes a tensor, a batch at a time."""

    def update(self, values: np.ndarray) -> None: ...


def sample_rows(available: int, wanted: int, seed: int) -> np.ndarray:
    """Row numbers int64[min(available, wanted)], drawn without replacement in a seeded order.

    Examples
    --------
    >>> sorted(sample_rows(3, 10, seed=0).tolist())
    [0, 1, 2]
    """
    return np.random.default_rng(seed).permutation(available)[:wanted]


def digest_of(batches: Batches) -> str:
    """sha256 over names, dtypes, shapes and bytes of all that a model is calibrated on."""
    total = hashlib.sha256()
    for batch in batches():
        for name in sorted(batch):
            array = np.ascontiguousarray(batch[name])
            total.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
            total.update(array.tobytes())
    return total.hexdigest()


def watch(
    model: ModelProto,
    observers: Mapping[str, Sequence[Observer]],
    batches: Batches,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    deadline: float | None = None,
) -> None:
    """Feed every tensor named in `observers` to its observers, over all batches.

    Tensors are fetched in chunks of at most `chunk_bytes` (as they are in the first batch; one
    tensor at least), one pass over the rows a chunk: peak memory depends neither on the number
    of rows nor on the depth of the model.

    Raises
    ------
    TimeoutError
        When `deadline` (`time.monotonic`) passes.
    """
    names = [name for name in observers if observers[name]]
    first = next(iter(batches()))
    for chunk in chunks_of(element_counts(model, names, first), chunk_bytes // 4):
        computed = [name for name in chunk if name not in first]
        session = open_session(with_outputs(model, computed)) if computed else None
        for batch in batches():
            check_deadline(deadline)
            fetched = session.run(computed, dict(batch)) if session else []
            values = dict(zip(computed, fetched, strict=True))
            for name in chunk:
                for observer in observers[name]:
                    observer.update(values[name] if name in values else batch[name])


def check_deadline(deadline: float | None) -> None:
    """Raise TimeoutError once `time.monotonic` has passed `deadline`."""
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError("calibration ran out of time")


def element_counts(model: ModelProto, names: Sequence[str], batch: Arrays) -> dict[str, int]:
    """How many elements each tensor has on `batch`, without fetching any of them."""
    import onnx

    computed = [name for name in names if name not in batch]
    counted = with_outputs(model, [])
    for index, name in enumerate(computed):
        output = f"strop:size:{index}"
        counted.graph.node.append(onnx.helper.make_node("Size", [name], [output]))
        counted.graph.output.append(
            onnx.helper.make_tensor_value_info(output, onnx.TensorProto.INT64, [])
        )
    counts = {name: batch[name].size for name in names if name in batch}
    if computed:
        values = open_session(counted).run(None, dict(batch))
        counts.update({name: int(value) for name, value in zip(computed, values, strict=True)})
    return {name: counts[name] for name in names}


def chunks_of(counts: Mapping[str, int], limit: int) -> list[list[str]]:
    """Consecutive names whose counts sum to `limit` at most, or a single name.

    Examples
    --------
    >>> chunks_of({"a": 3, "b": 4, "c": 9, "d": 1}, 8)
    [['a', 'b'], ['c'], ['d']]
    """
    chunks: list[list[str]] = []
    room = 0
    for name, count in counts.items():
        if not chunks or count > room:
            chunks.append([])
            room = limit
        chunks[-1].append(name)
        room -= count
    return chunks


def with_outputs(model: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """A copy of a float model whose outputs are `tensors` (float32) instead of its own.

    Tensors that were outputs keep their declaration.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    declared = {entry.name: entry for entry in model.graph.output}
    del result.graph.output[:]
    for name in tensors:
        info = declared.get(name) or onnx.helper.make_tensor_value_info(
            name, onnx.TensorProto.FLOAT, None
        )
        result.graph.output.append(info)
    return result


def open_session(
    model: ModelProto, *, profile: str | None = None, threads: int | None = None
) -> InferenceSession:
    """An ONNX Runtime CPU session with all graph optimisations.

    Parameters
    ----------
    profile
        Prefix of a profile file to write when `end_profiling` is called.
    threads
        Of one call; None means one a granted core.

    Raises
    ------
    NotApplicable
        When the model is too large for one protobuf message.
    """
    import onnxruntime

    from strop.measure.machine import granted_cpus

    if model.ByteSize() >= 2**31 - 1:
        raise NotApplicable("models of 2 GiB and more are not quantised statically")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or len(granted_cpus())
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
