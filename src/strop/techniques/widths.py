"""Which widths an engine rewards, by measurement.

Kernels compute channels in blocks: between two multiples of a block fewer channels save nothing.
How long the block is depends on the processor, the engine and its version, so it is measured on
the machine at hand instead of being looked up.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from strop import engines
from strop.engines import Engine, Session
from strop.errors import NotApplicable, StropError
from strop.models import graph
from strop.models.model import Model
from strop.models.sample import random_inputs
from strop.records import Placement, SessionSpec, Signature, Target, TensorSpec

STEPS = (32, 16, 8, 4, 2)
"""Block lengths that are looked for."""
_WIDTHS = tuple(range(16, 68, 4))
_IMAGE = 14
_REWARD = 0.97
"""A width is rewarded when a call takes at most this share of one at the next multiple."""
_AGREE = 0.75
_BUILD_SECONDS = 1.0
_ROUNDS = 9
_SECONDS_A_ROUND = 2e-3


def rewarded_step(target: Target, folder: Path) -> int:
    """The greatest step of `STEPS` between whose multiples the fastest engine rewards nothing.

    Convolutions of 16 to 64 channels are built and timed; 1 where every width counts.

    Parameters
    ----------
    folder
        Scratch space.
    """
    models = [_convolution(width, folder / f"width-{width}") for width in _WIDTHS]
    inputs = random_inputs(models[0].signature, rows=max(target.batch, 1))
    batches = [
        {"x": np.resize(inputs["x"], (len(inputs["x"]), w, _IMAGE, _IMAGE))} for w in _WIDTHS
    ]
    seconds = call_seconds(models, batches, target, folder)
    return step_of(dict(zip(_WIDTHS, seconds, strict=True)))


def conditions(target: Target) -> str:
    """What :func:`rewarded_step` depends on: the processor, the call, and the engines' versions."""
    packages = sorted({package for engine in _quick_engines() for package in engine.packages})
    return "-".join(
        [
            f"{target.device}-{target.thread_count}-{target.batch}",
            *target.machine.isa,
            *(f"{package}={_version(package)}" for package in packages),
        ]
    )


def step_of(seconds: Mapping[int, float]) -> int:
    """The step that times by width show.

    Examples
    --------
    >>> step_of({width: -(-width // 16) for width in range(16, 68, 4)})
    16
    >>> step_of({width: width for width in range(16, 68, 4)})
    1
    """
    for step in STEPS:
        between = [w for w in seconds if w % step and -(-w // step) * step in seconds]
        kept = [w for w in between if seconds[w] > _REWARD * seconds[-(-w // step) * step]]
        if between and len(kept) >= _AGREE * len(between):
            return step
    return 1


def speedup(
    before: Model, after: Model, inputs: Mapping[str, np.ndarray], target: Target, folder: Path
) -> float:
    """How many times faster `after` is, both on the engine that is fastest for them."""
    old, new = call_seconds([before, after], [inputs, inputs], target, folder)
    return old / new


def call_seconds(
    models: Sequence[Model],
    inputs: Sequence[Mapping[str, np.ndarray]],
    target: Target,
    folder: Path,
) -> list[float]:
    """Seconds of a call of each model, on the engine that is fastest over all of them.

    They run in turn, so that a slow moment hits them alike; each round counts by its median.

    Raises
    ------
    NotApplicable
        When no engine here runs the ONNX form of all of them.
    """
    best: list[float] | None = None
    for engine in _quick_engines():
        if not all(engine.applies(model, target) for model in models):
            continue
        with contextlib.ExitStack() as stack:
            try:
                sessions = [
                    stack.enter_context(contextlib.closing(_open(engine, model, target, folder)))
                    for model in models
                ]
                found = _timed(sessions, inputs)
            except StropError:
                continue  # this engine is not for this model
        if best is None or sum(found) < sum(best):
            best = found
    if best is None:
        raise NotApplicable("no engine here runs the network's ONNX form")
    return best


def _quick_engines() -> Iterator[Engine]:
    """Those that run ONNX here and build in a moment: a dozen networks are built."""
    for name in engines.names():
        try:
            engine = engines.get(name)
        except StropError:  # a broken plug-in is none
            continue
        quick = engine.build_seconds <= _BUILD_SECONDS
        if quick and "onnx" in engine.consumes and engine.available():
            yield engine


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # an engine may do with another distribution
        return "absent"


def _open(engine: Engine, model: Model, target: Target, folder: Path) -> Session:
    workdir = folder / f"{engine.name}-{model.digest[:16]}"
    workdir.mkdir(parents=True, exist_ok=True)
    options = engine.space(model, target).default
    artifact = engine.build(model, options, workdir)
    placement = Placement(device=target.device, threads=target.thread_count)
    spec = SessionSpec(
        engine=engine.name,
        artifact=str(artifact),
        signature=model.signature,
        options=options,
        placement=placement,
    )
    return engines.open_session(spec)


def _timed(sessions: Sequence[Session], inputs: Sequence[Mapping[str, np.ndarray]]) -> list[float]:
    calls = []
    for session, arrays in zip(sessions, inputs, strict=True):
        session.run(arrays)
        began = time.perf_counter()
        session.run(arrays)
        took = time.perf_counter() - began
        calls.append(max(1, min(50, round(_SECONDS_A_ROUND / max(took, 1e-6)))))
    rounds = np.empty((_ROUNDS, len(sessions)))
    for number in range(_ROUNDS):
        for place, (session, arrays) in enumerate(zip(sessions, inputs, strict=True)):
            began = time.perf_counter()
            for _ in range(calls[place]):
                session.run(arrays)
            rounds[number, place] = (time.perf_counter() - began) / calls[place]
    return [float(value) for value in np.median(rounds, axis=0)]


def _convolution(width: int, folder: Path) -> Model:
    """Two 3x3 convolutions of `width` channels, because the first also converts the layout."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(
            (rng.standard_normal((width, width, 3, 3)) / (3 * width**0.5)).astype(np.float32), name
        )
        for name in ("w0", "w1")
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["h"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w1"], ["y"], "second", pads=[1, 1, 1, 1]),
    ]
    shape: tuple[int | str, ...] = ("batch", width, _IMAGE, _IMAGE)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    proto = helper.make_model(
        helper.make_graph(nodes, "width", info[:1], info[1:], weights),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    graph.write(proto, folder / "onnx" / "model.onnx")
    x, y = (TensorSpec(name=name, dtype="float32", shape=shape) for name in "xy")
    return Model.seal(folder, Signature(inputs=(x,), outputs=(y,)))
