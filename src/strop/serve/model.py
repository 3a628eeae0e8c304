"""One version of a model: open, warm, and described as the Open Inference Protocol wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from strop import engines
from strop.bundle.layout import FORMS, MODEL, SAMPLE, read_manifest, verify_files
from strop.bundle.loader import session_spec
from strop.bundle.sample import read_arrays, unpack
from strop.engines import Session
from strop.errors import BundleError, InputError, StropError
from strop.records import Manifest, SessionSpec, Signature, TensorSpec
from strop.serve.buckets import Buckets, buckets_for
from strop.serve.codec.datatypes import DATATYPES
from strop.serve.curve import LatencyCurve
from strop.serve.errors import BadRequest
from strop.serve.plain import plain_spec, quiet_options
from strop.serve.request import InferRequest
from strop.serve.settings import ModelSettings
from strop.serve.statistics import ModelStatistics


class TensorInfo(NamedTuple):
    """An input or output as clients see it: -1 where a dimension is free."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batching:
    """Whether requests share batches, and why.

    Attributes
    ----------
    allowed
        False: every request runs alone.
    reason
        Why not; empty where they do.
    deviation
        The largest relative difference that warm-up saw between a request's answer in a batch and
        alone; 0.0 means bit for bit the same.
    """

    allowed: bool
    reason: str = ""
    deviation: float = 0.0


class ServedModel:
    """A loaded version. Opened by :func:`open_model`, put to work by a `Batcher`.

    Attributes
    ----------
    name, version, settings
        As it was loaded.
    signature
        Exact dtypes and symbols; `inputs` and `outputs` are the same for clients.
    platform
        ``onnxruntime_onnx``, ``openvino_openvino`` …
    manifest
        The bundle's, None for a plain file. Preprocessing that a bundle records is the client's
        to run: the server computes the network and nothing else.
    batching
        Whether requests share batches; undecided (not allowed) until warm-up.
    inline
        Whether batches run on the event loop's thread; decided by warm-up.
    curve, statistics
        Latency by batch size, and what has been done.
    """

    def __init__(
        self,
        name: str,
        version: str,
        settings: ModelSettings,
        spec: SessionSpec,
        session: Session,
        manifest: Manifest | None = None,
        examples: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.settings = settings
        self.spec = spec
        self.session = session
        self.manifest = manifest
        self.examples = dict(examples or {})
        self.signature: Signature = spec.signature
        self.platform = f"{spec.engine}_{manifest.form if manifest else _form(spec)}"
        self.inputs = tuple(_info(entry) for entry in self.signature.inputs)
        self.outputs = tuple(_info(entry) for entry in self.signature.outputs)
        self.output_names = frozenset(self.signature.output_names)
        self.batching = declared_batching(self.signature, settings)
        self.inline = bool(settings.inline)
        self.reuses_buffers = False
        self.buckets: Buckets = buckets_for(self.signature, manifest)
        points = manifest.latency_curve if manifest is not None else ()
        self.curve = LatencyCurve(self.limit, points)
        self.statistics = ModelStatistics()
        self._texts_in = [it.name for it in self.signature.inputs if it.dtype == "str"]
        self._texts_out = [it.name for it in self.signature.outputs if it.dtype == "str"]
        self._plain = _plain_checks(self.signature)

    @property
    def limit(self) -> int:
        """Rows of the largest batch; 1 where requests run alone, whatever their shapes."""
        return self.settings.max_batch if self.batching.allowed else 1

    @property
    def max_batch(self) -> int:
        """Triton's ``max_batch_size``: 0 where requests do not share batches."""
        return self.limit if self.batching.allowed else 0

    @property
    def workers(self) -> int:
        """Batches that run at once."""
        return self.settings.workers or self.session.concurrency

    def check(self, request: InferRequest) -> int:
        """The rows of a request that fits the model; 1 where requests run alone.

        Text arrives as `bytes` and is decoded in place, as engines take `str`.

        Raises
        ------
        BadRequest
            Names the first thing that does not fit.
        """
        inputs = request.inputs
        if self._texts_in:
            request.inputs = inputs = self._decoded(inputs)
        rows = self._rows_if_plain(inputs)
        if rows < 0:
            try:
                engines.validate(inputs, self.signature)
            except InputError as error:
                raise BadRequest(error.message, hint=error.hint) from None
            rows = len(next(iter(inputs.values()))) if self.batching.allowed else 1
        if request.outputs is not None and not self.output_names.issuperset(request.outputs):
            unknown = sorted(set(request.outputs) - self.output_names)[0]
            raise BadRequest(
                f"the model '{self.name}' has no output '{unknown}'",
                hint=f"it has {', '.join(self.signature.output_names)}",
            )
        if request.priority < 0:
            raise BadRequest(f"the priority is {request.priority}", hint="give 0 or more")
        if not self.batching.allowed:
            return 1
        if not 0 < rows <= self.settings.max_batch:
            what = f"holds {rows} rows" if rows else "holds no rows"
            raise BadRequest(
                f"the request {what}, but the model '{self.name}' takes 1 to "
                f"{self.settings.max_batch} at once",
                hint="send them in several requests" if rows else None,
            )
        return rows

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs for one batch; called on worker threads."""
        return self.finish(self.session.run(arrays))

    def finish(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of a session as clients get them: text as `bytes`."""
        for name in self._texts_out:
            array = outputs[name]
            flat = [it.encode() if isinstance(it, str) else bytes(it) for it in array.ravel()]
            encoded = np.empty(len(flat), dtype=object)
            encoded[:] = flat
            outputs[name] = encoded.reshape(array.shape)
        return outputs

    def reopen(self) -> Session:
        """A second session, for a worker whose session hangs."""
        return engines.open_session(self.spec)

    def close(self) -> None:
        """Give memory and threads back."""
        self.session.close()

    def config(self) -> dict[str, Any]:
        """Triton's model configuration, as JSON, with what strop knows beyond it."""
        batched = self.batching.allowed
        config: dict[str, Any] = {
            "name": self.name,
            "platform": self.platform,
            "backend": self.spec.engine,
            "max_batch_size": self.max_batch,
            "input": [_port_config(info, batched) for info in self.inputs],
            "output": [_port_config(info, batched) for info in self.outputs],
            "instance_group": [{"name": self.name, "kind": "KIND_CPU", "count": self.workers}],
            "response_cache": {"enable": self.settings.cache_bytes > 0},
            "parameters": {
                key: {"string_value": str(value)}
                for key, value in {
                    "batching": self.batching.reason or "on",
                    "batch_deviation": f"{self.batching.deviation:.3g}",
                    "policy": self.settings.policy,
                    "slo_seconds": "" if self.settings.slo is None else self.settings.slo,
                    "inline": str(self.inline).lower(),
                    "claim": str(self.manifest.claim) if self.manifest else "",
                    "recipe": str(self.manifest.recipe) if self.manifest else "",
                }.items()
                if str(value)
            },
        }
        if batched:
            delay = self.settings.delay if self.settings.policy == "fixed" else 0.0
            config["dynamic_batching"] = {"max_queue_delay_microseconds": int(delay * 1e6)}
        return config

    def _rows_if_plain(self, inputs: dict[str, np.ndarray]) -> int:
        """The rows when every input is as declared, with fixed trailing dimensions; else -1.

        A microsecond where `validate` takes four; what is refused here is looked at there again.
        """
        checks = self._plain
        if checks is None or len(inputs) != len(checks):
            return -1
        rows = -1
        for name, dtype, tail in checks:
            array = inputs.get(name)
            if array is None or array.dtype != dtype:
                return -1
            shape = array.shape
            if not shape or shape[1:] != tail or (rows >= 0 and shape[0] != rows):
                return -1
            rows = shape[0]
        return rows

    def _decoded(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        decoded = dict(inputs)
        for name in self._texts_in:
            array = inputs.get(name)
            if array is None or array.dtype.kind != "O":
                continue
            try:
                texts = [it.decode() if isinstance(it, bytes) else it for it in array.ravel()]
            except UnicodeDecodeError:
                raise BadRequest(f"input '{name}' holds bytes that are not UTF-8") from None
            if not all(isinstance(text, str) for text in texts):
                raise BadRequest(f"input '{name}' holds elements that are neither bytes nor text")
            whole = np.empty(len(texts), dtype=object)
            whole[:] = texts
            decoded[name] = whole.reshape(array.shape)
        return decoded


def open_model(name: str, version: str, path: Path, settings: ModelSettings) -> ServedModel:
    """Open a bundle's folder or a plain model file; blocking, imports the engine.

    Raises
    ------
    StropError
        When it cannot be read, trusted or opened. The message is for the operator: it may hold
        paths, and must not be sent to clients.
    """
    workers = settings.workers
    if path.is_dir():
        manifest = read_manifest(path)
        wrong = verify_files(path, manifest, MODEL)
        if wrong:
            raise BundleError(f"the bundle '{path}' is damaged: {wrong[0]}", hint="copy it again")
        spec = session_spec(path, manifest, trust=settings.trust, threads=settings.threads)
        streams = workers or spec.placement.streams
        placement = spec.placement.model_copy(update={"streams": streams})
        options = quiet_options(spec.engine, dict(spec.options))
        spec = spec.model_copy(update={"placement": placement, "options": options})
        examples = _examples(path, spec.signature)
    else:
        manifest, examples = None, {}
        spec = plain_spec(path, settings.threads or _threads(workers or 1), workers or 1)
    unsent = [it.name for it in spec.signature.inputs if it.dtype not in DATATYPES]
    unsent += [it.name for it in spec.signature.outputs if it.dtype not in DATATYPES]
    if unsent:
        raise InputError(f"the type of '{unsent[0]}' has no name in the Open Inference Protocol")
    session = engines.open_session(spec)
    return ServedModel(name, version, settings, spec, session, manifest, examples)


def declared_batching(signature: Signature, settings: ModelSettings) -> Batching:
    """What the signature alone says of batching; warm-up may still find that rows are mixed."""
    if settings.batching == "never" or settings.max_batch == 1:
        return Batching(False, "turned off")
    if not signature.inputs or not signature.outputs:
        return Batching(False, "the model has no inputs or no outputs")
    symbols = set()
    for spec in (*signature.inputs, *signature.outputs):
        if not spec.shape:
            return Batching(False, f"'{spec.name}' has no first dimension")
        if isinstance(spec.shape[0], int):
            return Batching(False, f"the first dimension of '{spec.name}' is {spec.shape[0]}")
        # An output's symbol may be an expression that some exporter made up; an input's is not.
        if spec in signature.inputs and spec.shape[0] is not None:
            symbols.add(spec.shape[0])
    if len(symbols) > 1:
        names = " and ".join(sorted(map(str, symbols)))
        return Batching(False, f"the inputs lead with different dimensions: {names}")
    return Batching(True)


def _examples(folder: Path, signature: Signature) -> dict[str, np.ndarray]:
    """The bundle's sample inputs, for warm-up with real values; empty when there are none."""
    try:
        inputs = unpack(read_arrays(folder / SAMPLE)).inputs
        engines.validate(inputs, signature)
    except (OSError, ValueError, StropError):
        return {}
    return inputs


def _threads(workers: int) -> int:
    """Threads of one inference, so that all workers together use the cores granted."""
    from strop.measure.machine import granted_cpus

    return max(1, len(granted_cpus()) // workers)


def _plain_checks(
    signature: Signature,
) -> tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...] | None:
    """(name, dtype, trailing dimensions) of every input, where all of them are fixed."""
    checks = []
    for spec in signature.inputs:
        if not spec.shape or spec.dtype in ("str", "bfloat16") or isinstance(spec.shape[0], int):
            return None
        tail = tuple(dim for dim in spec.shape[1:] if isinstance(dim, int))
        if len(tail) != len(spec.shape) - 1:
            return None
        checks.append((spec.name, np.dtype(spec.dtype), tail))
    leading = {spec.shape[0] for spec in signature.inputs if spec.shape}
    return tuple(checks) if len(leading) == 1 else None


def _info(spec: TensorSpec) -> TensorInfo:
    dims = (-1,) if spec.shape is None else spec.shape
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in dims)
    return TensorInfo(spec.name, DATATYPES.get(spec.dtype, spec.dtype), shape)


def _port_config(info: TensorInfo, batched: bool) -> dict[str, Any]:
    kind = "STRING" if info.datatype == "BYTES" else info.datatype
    dims = info.shape[1:] if batched else info.shape
    return {"name": info.name, "data_type": f"TYPE_{kind}", "dims": list(dims)}


def _form(spec: SessionSpec) -> str:
    return FORMS.get(Path(spec.artifact).suffix.lower(), spec.engine)
