from __future__ import annotations

import json
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import pytest

from strop.techniques.folding import prepare
from strop.techniques.onnx_view import GraphView
from strop.techniques.qdq import round_weights, write_qdq
from strop.techniques.quantisable import plan
from strop.techniques.sensitivity import (
    cached,
    layer_errors,
    layer_microseconds,
    output_error,
    rank_layers,
)

from . import small_graphs as small
from .small_graphs import floats


def test_error_per_microsecond_decides() -> None:
    errors = {"a": 3.0, "b": 2.0, "c": 1.0}
    assert rank_layers(errors) == ["a", "b", "c"]
    assert rank_layers(errors, {"a": 30.0, "b": 5.0, "c": 5.0}) == ["b", "c", "a"]
    assert rank_layers({"z": 1.0, "y": 1.0}) == ["y", "z"]


def test_output_error_is_relative_and_a_mean_over_rows() -> None:
    reference = [np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([1, 2])]
    candidate = [np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([5, 5])]
    assert output_error(reference, candidate) == pytest.approx((0 + 0.25) / 2)


def test_the_layer_with_a_bad_range_is_found(tmp_path: Path) -> None:
    proto = prepare(small.proto_of(small.conv_net(tmp_path)))
    view = GraphView(proto)
    chosen = plan(view)
    ranges = dict.fromkeys(chosen.tensors, (-20.0, 20.0))
    ranges["f"] = ranges["p"] = (-2000.0, 2000.0)  # what the head reads, in steps of 16
    ranges["c2"] = (-20.0, 20.0)
    weights = round_weights(proto, chosen, ranges)
    kept: list[set[str]] = []

    def build(keep: Collection[str]) -> onnx.ModelProto:
        kept.append(set(keep))
        return write_qdq(proto, plan(view, keep_float=keep), ranges, weights)

    batch = {"image": floats(6, 3, 8, 8)}
    errors = layer_errors(proto, chosen.layers, build, batch)
    assert kept == [{"second", "head"}, {"first", "head"}, {"first", "second"}]
    assert rank_layers(errors)[0] == "head"
    assert errors["head"] > 10 * errors["first"]
    with pytest.raises(TimeoutError):
        layer_errors(proto, chosen.layers, build, batch, deadline=time.monotonic() - 1)


def test_times_are_found_for_every_layer(tmp_path: Path) -> None:
    proto = prepare(small.proto_of(small.conv_net(tmp_path)))
    chosen = plan(GraphView(proto))
    ranges = dict.fromkeys(chosen.tensors, (-20.0, 20.0))
    quantised = write_qdq(proto, chosen, ranges, round_weights(proto, chosen, ranges))
    batch = {"image": floats(1, 3, 8, 8)}
    won = layer_microseconds(proto, quantised, chosen.layers, batch, threads=1)
    assert set(won) == {"first", "second", "head"}
    assert all(value >= 0 for value in won.values())


def test_the_cache_answers_for_its_key_alone(tmp_path: Path) -> None:
    file = tmp_path / "ranking.json"
    calls: list[int] = []

    def compute() -> dict[str, int]:
        calls.append(1)
        return {"calls": len(calls)}

    assert cached(file, "a", compute) == {"calls": 1}
    assert cached(file, "a", compute) == {"calls": 1}
    assert cached(file, "b", compute) == {"calls": 2}
    file.write_text(json.dumps({"key": "b"})[:-3])
    assert cached(file, "b", compute) == {"calls": 3}
