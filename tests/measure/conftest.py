from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop.measure import Subject
from strop.records import Placement, SessionSpec, Signature, TensorSpec


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find ``fakes`` first on the path that they are given."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def hangs_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that are to hang are given up after a second.

    Others have minutes as ever, as starting a process takes some time on a busy machine.
    """
    make = Subject.__init__

    def made(self: Subject, name: str, spec: SessionSpec, *given: Any, **options: Any) -> None:
        make(self, name, spec, *given, **options)
        if "hang_at" in spec.options:
            self._patience = 1.0

    monkeypatch.setattr(Subject, "__init__", made)


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
