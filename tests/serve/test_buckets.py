from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from strop.records import Deployment, Manifest, Recipe, Signature, Step, TensorSpec
from strop.serve.batcher import Batcher
from strop.serve.buckets import Equal, Fixed, Trimmed, buckets_for
from strop.serve.model import open_model
from strop.serve.request import InferRequest, InferResponse
from strop.serve.settings import ModelSettings
from strop.serve.warmup import warm

from .fakes import Asked, Doubling, network, served, settle, signature
from .test_batcher import run
from .waiting import until


def text(width: int | None) -> Signature:
    ids = TensorSpec(name="ids", dtype="int64", shape=("n", width))
    mask = TensorSpec(name="mask", dtype="int64", shape=("n", width))
    y = TensorSpec(name="y", dtype="float32", shape=("n", 2))
    return Signature(inputs=(ids, mask), outputs=(y,))


def sentence(*lengths: int, width: int) -> dict[str, np.ndarray]:
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    return {"ids": mask * 7, "mask": mask}


def test_fixed_shapes_are_one_bucket_and_free_ones_many() -> None:
    assert isinstance(buckets_for(signature(4)), Fixed)
    free = buckets_for(signature(None))
    assert isinstance(free, Equal)
    short, long = ({"x": np.zeros((1, width))} for width in (3, 5))
    assert free.key(short) != free.key(long)
    assert free.key(short) == free.key({"x": np.ones((9, 3))})


def test_the_order_of_the_inputs_is_the_clients() -> None:
    """Not what tells the shapes of one input from those of another."""
    wide, narrow = np.zeros((1, 8), np.float32), np.zeros((1, 3), np.float32)
    bucket = Equal(("a", "b"))
    key = bucket.key({"a": wide, "b": narrow})
    assert bucket.key({"b": narrow, "a": wide}) == key
    assert bucket.key({"b": wide, "a": narrow}) != key


def test_gathering_reuses_the_buffer() -> None:
    buffers: dict[str, np.ndarray] = {}
    parts = [{"x": np.full((rows, 3), rows, np.float32)} for rows in (1, 2)]
    first = Fixed().gather(parts, buffers)["x"]
    np.testing.assert_array_equal(first[:, 0], [1, 2, 2])
    again = Fixed().gather(parts[:1] * 2, buffers)["x"]
    assert again.shape == (2, 3)
    assert np.shares_memory(first, again)
    wider = Fixed().gather([{"x": np.zeros((4, 5), np.float32)}] * 2, buffers)["x"]
    assert wider.shape == (8, 5)


def test_text_is_never_put_into_a_buffer() -> None:
    parts = [{"x": np.array([["a"]], object)}, {"x": np.array([["b"]], object)}]
    assert Fixed().gather(parts, {})["x"].tolist() == [["a"], ["b"]]


def test_like_lengths_share_a_bucket() -> None:
    trimmed = Trimmed("mask", ["ids", "mask"], [], step=16, free=False)
    keys = [trimmed.key(sentence(length, width=128)) for length in (1, 16, 17, 32, 33, 64, 65, 128)]
    assert keys[0] == keys[1] != keys[2] == keys[3] != keys[4] == keys[5] != keys[6] == keys[7]
    assert trimmed.key(sentence(3, 60, width=128)) == keys[5]
    # A row without any token counts as full.
    assert trimmed.key(sentence(3, 0, width=128)) == keys[7]


def test_given_lengths_are_padded_together_and_outputs_cut_back() -> None:
    trimmed = Trimmed("mask", ["ids", "mask"], ["states"], step=1, free=True)
    short, long = sentence(3, width=5), sentence(4, 2, width=8)
    assert trimmed.key(short) == trimmed.key(long)
    batch = trimmed.gather([short, long])
    assert batch["ids"].shape == (3, 8)
    np.testing.assert_array_equal(batch["mask"].sum(axis=1), [3, 4, 2])
    outputs = {"states": np.zeros((1, 8, 2)), "y": np.zeros((1, 2))}
    own = trimmed.own(outputs, short)
    assert own["states"].shape == (1, 5, 2)
    assert own["y"].shape == (1, 2)
    assert trimmed.cuts


def test_without_tokens_only_equal_lengths_share_a_batch() -> None:
    trimmed = Trimmed("mask", ["ids", "mask"], [], step=1, free=True)
    keys = {trimmed.key(sentence(0, width=width)) for width in (5, 8)}
    assert len(keys) == 2


def test_shapes_are_not_mixed_in_a_batch() -> None:
    class Free(Doubling):
        def __init__(self) -> None:
            super().__init__()
            self.signature = signature(None)

    async def scenario() -> None:
        session = Free()
        batcher = Batcher(served(session), asyncio.get_running_loop())
        ask = Asked(batcher)
        for width in (3, 5, 3, 5, 3):
            ask(np.full((1, width), float(width), np.float32))
        await ask.all()
        assert [it.outputs["y"].shape for it in ask.answers] == [  # type: ignore[union-attr]
            (1, width) for width in (3, 5, 3, 5, 3)
        ]
        assert sorted(session.batches) == [2, 3]
        await settle(batcher)

    run(scenario())


def test_a_trimmed_bundle_says_which_inputs_are_padded() -> None:
    recipe = Recipe(
        steps=(Step(technique="trim-padding", params={"bucket": 32}),),
        deploy=Deployment(engine="onnxruntime"),
    )
    meta = {"trimmed_inputs": ["ids", "mask"], "restored_outputs": ["states"]}
    manifest = Manifest.model_construct(recipe=recipe, lineage={"meta": meta})
    free = buckets_for(text(None), manifest)
    assert isinstance(free, Trimmed)
    assert (free.mask, free.step, free.free, free.cuts) == ("mask", 32, True, True)
    fixed = buckets_for(text(128), manifest)
    assert isinstance(fixed, Trimmed)
    assert not fixed.cuts
    plain = Manifest.model_construct(recipe=recipe, lineage={})
    assert isinstance(buckets_for(text(None), plain), Equal)


def test_requests_of_different_lengths_share_a_batch_and_get_their_own_length(
    tmp_path: Path,
) -> None:
    integer, rows = TensorProto.INT64, ["n", "length"]
    path = network(
        tmp_path / "text.onnx",
        [
            helper.make_node("Mul", ["ids", "mask"], ["states"]),
            helper.make_node("ReduceSum", ["states", "axes"], ["sum"], keepdims=1),
        ],
        [("ids", integer, rows), ("mask", integer, rows)],
        [("states", integer, rows), ("sum", integer, ["n", 1])],
        {"axes": np.array([1])},
    )

    async def scenario() -> None:
        model = open_model("text", "1", path, ModelSettings(path, threads=1, inline=False))
        warm(model)
        assert model.batching.allowed
        model.buckets = Trimmed("mask", ["ids", "mask"], ["states"], step=4, free=True)
        batcher = Batcher(model, asyncio.get_running_loop())
        answers: dict[int, InferResponse] = {}
        rng = np.random.default_rng(0)
        given = {}
        for index, width in enumerate((5, 6, 7, 8, 6)):
            lengths = rng.integers(5, width + 1, size=2)
            inputs = sentence(*lengths, width=width)
            inputs["ids"] = rng.integers(1, 50, inputs["ids"].shape)
            given[index] = inputs
            batcher.submit(
                InferRequest("text", inputs),
                lambda answer, number=index: answers.update({number: answer}),
            )
        await until(lambda: len(answers) == len(given))
        assert list(model.statistics.by_batch) == [10]
        for number, inputs in given.items():
            outputs = answers[number].outputs
            np.testing.assert_array_equal(outputs["states"], inputs["ids"] * inputs["mask"])
            np.testing.assert_array_equal(
                outputs["sum"], (inputs["ids"] * inputs["mask"]).sum(axis=1, keepdims=True)
            )
        await settle(batcher)
        model.close()

    run(scenario())
