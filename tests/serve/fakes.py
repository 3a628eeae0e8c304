"""Sessions that do what a test tells them, and small real networks, for the core's tests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from strop.engines import Session
from strop.errors import StropError
from strop.records import SessionSpec, Signature, TensorSpec
from strop.serve.batcher import Batcher
from strop.serve.core import Core
from strop.serve.errors import ServeError
from strop.serve.model import ServedModel
from strop.serve.request import InferRequest, InferResponse
from strop.serve.settings import ModelSettings
from strop.serve.ticket import ANSWERED, Ticket

from .waiting import END, until

FAILS, HANGS = 666.0, 999.0
WIDTH = 4


class Doubling(Session):
    """``y = 2 x``, row by row; raises on `FAILS` and waits for `released` on `HANGS`."""

    thread_safe = True

    def __init__(self, seconds: float = 0.0, streams: int = 1) -> None:
        self.signature = signature(WIDTH)
        self.concurrency = streams
        self.seconds = seconds
        self.batches: list[int] = []
        self.order: list[float] = []
        self.gate = threading.Event()
        self.gate.set()
        self.released = threading.Event()
        self.closed = False

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = arrays["x"]
        self.batches.append(len(x))
        self.order += x[:, 0].tolist()
        assert self.gate.wait(END)
        if (x == HANGS).any():
            self.released.wait(END)
        if (x == FAILS).any():
            raise StropError("poison in /secret/path/model.onnx")
        time.sleep(self.seconds)
        return {"y": x * 2}

    def close(self) -> None:
        self.closed = True


def signature(width: int | None) -> Signature:
    x, y = (TensorSpec(name=name, dtype="float32", shape=("n", width)) for name in "xy")
    return Signature(inputs=(x,), outputs=(y,))


def served(session: Session, **settings: Any) -> ServedModel:
    """A model of a session that was made by hand; it has not been warmed."""
    chosen = ModelSettings(**{"path": Path("fake.onnx"), "inline": False, **settings})
    spec = SessionSpec(engine="onnxruntime", artifact="fake.onnx", signature=session.signature)
    return ServedModel("fake", "1", chosen, spec, session)


class Asked:
    """Submits to a batcher or a core, and keeps what was answered."""

    def __init__(self, to: Batcher | Core) -> None:
        self.to = to
        self.answers: list[InferResponse | ServeError | None] = []
        self.tickets: list[Ticket] = []

    def __call__(self, value: float | np.ndarray, **fields: Any) -> Ticket:
        index = len(self.answers)
        self.answers.append(None)

        def done(result: InferResponse | ServeError) -> None:
            assert self.answers[index] is None, "answered twice"
            self.answers[index] = result

        x = value if isinstance(value, np.ndarray) else np.full((1, WIDTH), value, np.float32)
        request = InferRequest(fields.pop("model", "fake"), {"x": x}, id=str(index), **fields)
        self.tickets.append(self.to.submit(request, done))
        return self.tickets[-1]

    async def all(self) -> list[InferResponse | ServeError | None]:
        """What was answered, once all of it is that was not cancelled."""
        await until(
            lambda: all(
                answer is not None or ticket.state == ANSWERED
                for answer, ticket in zip(self.answers, self.tickets, strict=True)
            )
        )
        return self.answers

    def values(self) -> list[float | str | None]:
        """The first element of each answer; the reason of each error."""
        return [
            answer.outputs["y"].flat[0]
            if isinstance(answer, InferResponse)
            else answer.reason
            if answer is not None
            else None
            for answer in self.answers
        ]


async def settle(batcher: Batcher) -> None:
    """Let a batcher's threads go."""
    await batcher.drain()
    for instance in batcher.stop():
        instance.join(END)


async def round_over() -> None:
    """All that was put off to the end of this round of the loop has happened, dispatch with it."""
    await asyncio.sleep(0)


def later(batcher: Batcher, seconds: float) -> None:
    """For what the workers have it is so many seconds later, without waiting for them to pass."""
    for instance in batcher._pool._instances:
        instance.free_at -= seconds
        for batch in instance.batches[:1]:
            batch.started -= seconds


def network(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[tuple[str, int, list[Any]]],
    outputs: list[tuple[str, int, list[Any]]],
    constants: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write an ONNX file."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*it) for it in inputs],
        [helper.make_tensor_value_info(*it) for it in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opset = [helper.make_opsetid("", 17)]
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def scaling(path: Path, factor: float = 2.0, width: int | str = WIDTH) -> Path:
    """``y = factor · x``."""
    return network(
        path,
        [helper.make_node("Mul", ["x", "k"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", width])],
        [("y", TensorProto.FLOAT, ["n", width])],
        {"k": np.float32(factor)},
    )
