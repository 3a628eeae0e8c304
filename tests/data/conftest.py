"""Signatures and small arrays that the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from strop.records import Signature, TensorSpec
from strop.records.signature import Dim

MakeSignature = Callable[..., Signature]


@pytest.fixture
def signature() -> MakeSignature:
    """Makes a signature from ``name=(dtype, dim, …)``."""

    def make(**inputs: tuple[str, *tuple[Dim, ...]]) -> Signature:
        specs = [TensorSpec(name=n, dtype=d, shape=shape) for n, (d, *shape) in inputs.items()]
        output = TensorSpec(name="y", dtype="float32", shape=("n", 3))
        return Signature(inputs=tuple(specs), outputs=(output,))

    return make


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """20 different examples of an input `x` float32[n, 4], with everything that may go along."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((20, 4)).astype(np.float32),
        "target": np.arange(20) % 3,
        "group": np.array([f"patient {i // 2}" for i in range(20)]),
        "time": np.arange(20) * 60,
        "slice:site": np.array(["a", "b"] * 10),
    }


@pytest.fixture
def write_py(tmp_path: Path) -> Callable[[str, str], str]:
    """Writes a file of code into a folder of its own; gives its path."""

    def write(name: str, code: str) -> str:
        path = tmp_path / name
        path.write_text(code)
        return str(path)

    return write
