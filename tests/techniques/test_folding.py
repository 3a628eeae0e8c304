from __future__ import annotations

from pathlib import Path

import numpy as np

from strop.models.runner import Runner
from strop.techniques.folding import prepare

from . import small_graphs as small
from .small_graphs import floats, node


def test_batch_norms_fold_and_means_become_pools(tmp_path: Path) -> None:
    model = small.seal(
        tmp_path,
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], epsilon=1e-3),
            node("ReduceMean", ["n"], ["y"], axes=[-1, 2]),
        ],
        {
            "w": floats(8, 3, 3, 3, seed=1),
            "g": floats(8, seed=2),
            "b": floats(8, seed=3),
            "m": floats(8, seed=4),
            "v": np.abs(floats(8, seed=5)) + 0.1,
        },
        inputs={"x": ("n", 3, 6, 6)},
        outputs={"y": ("n", 8, 1, 1)},
    )
    before = small.proto_of(model)
    untouched = before.SerializeToString()
    after = prepare(before)
    assert before.SerializeToString() == untouched
    assert [entry.op_type for entry in after.graph.node] == ["Conv", "GlobalAveragePool"]
    assert len({entry.name for entry in after.graph.node}) == 2
    assert len(after.graph.initializer) == 2
    x = {"x": floats(2, 3, 6, 6, seed=6)}
    np.testing.assert_allclose(Runner(after).run(x)["y"], small.run(model, x)["y"], atol=1e-5)


def test_a_convolution_that_is_read_twice_keeps_its_batch_norm(tmp_path: Path) -> None:
    one = np.ones(4, np.float32)
    model = small.seal(
        tmp_path,
        [
            node("Conv", ["x", "w"], ["c"], name="same"),
            node("BatchNormalization", ["c", "one", "one", "one", "one"], ["n"], name="same"),
            node("Add", ["c", "n"], ["y"]),
        ],
        {"w": floats(4, 3, 1, 1), "one": one},
        inputs={"x": ("n", 3, 4, 4)},
        outputs={"y": ("n", 4, 4, 4)},
    )
    after = prepare(small.proto_of(model))
    assert [entry.op_type for entry in after.graph.node] == ["Conv", "BatchNormalization", "Add"]
    assert len({entry.name for entry in after.graph.node}) == 3
