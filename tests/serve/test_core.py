"""Each answer belongs to its request: what MLServer#1306 and BentoML#3710, #3859 were about."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from strop.serve.core import Core
from strop.serve.request import InferRequest, InferResponse
from strop.serve.settings import ModelSettings

from .fakes import network
from .waiting import END

FLOAT = TensorProto.FLOAT


def two_inputs(path: Path) -> Path:
    """``sum = Σ (a · w)``, ``shifted = a + b``: any width, two inputs, two outputs."""
    return network(
        path,
        [
            helper.make_node("Add", ["a", "b"], ["shifted"]),
            helper.make_node("Sin", ["shifted"], ["s"]),
            helper.make_node("ReduceSum", ["s", "axes"], ["sum"], keepdims=1),
        ],
        [("a", FLOAT, ["n", "w"]), ("b", FLOAT, ["n", "w"])],
        [("shifted", FLOAT, ["n", "w"]), ("sum", FLOAT, ["n", 1])],
        {"axes": np.array([1])},
    )


def expected(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    shifted = inputs["a"] + inputs["b"]
    return {"shifted": shifted, "sum": np.sin(shifted).sum(axis=1, keepdims=True)}


class Plan(dict[str, Any]):
    """What one submitter does: its payloads in order, and when it gives up."""


plans = st.lists(
    st.fixed_dictionaries(
        {
            "rows": st.integers(1, 5),
            "width": st.sampled_from([1, 3, 3, 8]),
            "priority": st.integers(0, 3),
            "outputs": st.sampled_from([None, ("sum",), ("sum", "shifted")]),
            "same": st.booleans(),
            "cancel": st.sampled_from([False, False, False, True]),
            "pause": st.sampled_from([0.0, 0.0, 0.001]),
        }
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize(
    "options",
    [
        {"inline": True},
        {"inline": False, "workers": 2},
        {"inline": False, "cache_bytes": 100_000},
        {"inline": False, "policy": "fixed", "delay": 0.002},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(submitters=st.lists(plans, min_size=1, max_size=12), seed=st.integers(0, 2**16))
def test_random_submitters_each_get_exactly_their_own_answers(
    tmp_path: Path, options: dict[str, Any], submitters: list[list[dict[str, Any]]], seed: int
) -> None:
    path = tmp_path / "two.onnx"
    if not path.exists():
        two_inputs(path)

    async def scenario() -> None:
        core = Core()
        await core.repository.load("two", ModelSettings(path, threads=1, max_batch=8, **options))
        assert core.repository.model("two").batching.allowed
        rng = np.random.default_rng(seed)
        answered = 0

        async def submitter(number: int, plan: list[dict[str, Any]]) -> None:
            nonlocal answered
            for step, it in enumerate(plan):
                source = np.random.default_rng(0) if it["same"] else rng
                shape = (it["rows"], it["width"])
                inputs = {name: source.normal(size=shape).astype(np.float32) for name in "ab"}
                copies = {name: array.copy() for name, array in inputs.items()}
                request = InferRequest(
                    "two",
                    inputs,
                    outputs=it["outputs"],
                    id=f"{number}/{step}",
                    priority=it["priority"],
                )
                asking = asyncio.ensure_future(core.infer(request))
                if it["pause"]:
                    await asyncio.sleep(it["pause"])
                if it["cancel"]:
                    asking.cancel()
                    continue
                answer = await asking
                wanted = expected(copies)
                names = it["outputs"] or ("shifted", "sum")
                assert tuple(answer.outputs) == names
                assert answer.id == request.id
                for name in names:
                    assert answer.outputs[name].shape == wanted[name].shape
                    np.testing.assert_allclose(
                        answer.outputs[name], wanted[name], rtol=1e-5, atol=1e-5
                    )
                np.testing.assert_array_equal(
                    answer.outputs.get("shifted", wanted["shifted"]), wanted["shifted"]
                )
                for name in inputs:
                    np.testing.assert_array_equal(inputs[name], copies[name])
                answered += 1

        await asyncio.gather(*(submitter(n, plan) for n, plan in enumerate(submitters)))
        batcher = core.repository.batcher("two")
        assert max(batcher.model.statistics.by_batch, default=0) <= 8
        assert answered == sum(not it["cancel"] for plan in submitters for it in plan)
        assert await core.drain(END)
        assert not batcher.busy
        assert batcher.lanes.requests == batcher.lanes.rows == batcher.lanes.bytes == 0

    asyncio.run(asyncio.wait_for(scenario(), 2 * END))


def test_answers_kept_by_clients_are_never_written_again(tmp_path: Path) -> None:
    """Buffers of inputs are used again; outputs belong to whoever got them."""

    async def scenario() -> None:
        core = Core()
        path = two_inputs(tmp_path / "two.onnx")
        await core.repository.load("two", ModelSettings(path, threads=1, max_batch=8))
        rng = np.random.default_rng(0)
        kept: list[tuple[dict[str, np.ndarray], asyncio.Future[InferResponse]]] = []
        for _ in range(50):
            for _ in range(6):
                inputs = {name: rng.normal(size=(1, 3)).astype(np.float32) for name in "ab"}
                asking = asyncio.ensure_future(core.infer(InferRequest("two", inputs)))
                kept.append((inputs, asking))
            await asyncio.sleep(0)
        await asyncio.gather(*(asking for _, asking in kept))
        for inputs, asking in kept:
            wanted = inputs["a"] + inputs["b"]
            np.testing.assert_array_equal(asking.result().outputs["shifted"], wanted)
        statistics = core.repository.model("two").statistics
        assert statistics.inferences / statistics.executions > 2
        await core.drain(END)

    asyncio.run(scenario())
