from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strop.records import Placement, SessionSpec, Signature, TensorSpec


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find ``fakes`` first on the path that they are given."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def inputs() -> dict[str, np.ndarray]:
    return {"x": np.zeros((4, 3), np.float32)}


@pytest.fixture
def fake():
    """A spec whose options tell the fake session in ``fakes`` how to behave."""

    def fake(threads: int = 1, streams: int = 1, **options: object) -> SessionSpec:
        x = TensorSpec(name="x", dtype="float32", shape=("n", 3))
        return SessionSpec(
            engine="fake",
            artifact="nowhere",
            signature=Signature(inputs=(x,), outputs=(x,)),
            options=options,
            placement=Placement(threads=threads, streams=streams),
        )

    return fake
