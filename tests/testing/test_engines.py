"""The engine suite fails on engines that break a promise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop import engines
from strop.engines.onnxruntime import OnnxRuntime
from strop.testing.engines import EngineConformance


class Suite(EngineConformance):
    engine = "onnxruntime"


class Spoilt(engines.Session):
    """An honest session whose `run` a test replaces."""

    thread_safe = True

    def __init__(self, inner: engines.Session, run: Callable[..., Any]) -> None:
        self.inner, self.signature, self.concurrency = inner, inner.signature, inner.concurrency
        self.spoilt = run
        self.kept: dict[Any, np.ndarray] = {}

    def run(self, arrays: engines.Arrays) -> dict[str, np.ndarray]:
        outputs: dict[str, np.ndarray] = self.spoilt(self, arrays)
        return outputs

    def close(self) -> None:
        self.inner.close()


def reuses_buffers(session: Spoilt, arrays: engines.Arrays) -> dict[str, np.ndarray]:
    outputs = session.inner.run(arrays)
    for name, array in outputs.items():
        kept = session.kept.setdefault((name, array.shape), array)
        kept[...] = array
        outputs[name] = kept
    return outputs


def aliases_inputs(session: Spoilt, arrays: engines.Arrays) -> dict[str, np.ndarray]:
    outputs = session.inner.run(arrays)
    return {name: arrays["x"] if name == "same" else array for name, array in outputs.items()}


def widens(session: Spoilt, arrays: engines.Arrays) -> dict[str, np.ndarray]:
    outputs = session.inner.run(arrays)
    return {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in outputs.items()
    }


def renames(session: Spoilt, arrays: engines.Arrays) -> dict[str, np.ndarray]:
    outputs = session.inner.run(arrays)
    return {name.replace(":", "_"): array for name, array in outputs.items()}


def casts_quietly(session: Spoilt, arrays: engines.Arrays) -> dict[str, np.ndarray]:
    wanted = {spec.name: spec.dtype for spec in session.signature.inputs}
    cast = {name: np.asarray(array).astype(wanted[name]) for name, array in arrays.items()}
    return session.inner.run(cast)


def clips_inputs_in_place(session: Spoilt, arrays: engines.Arrays) -> dict[str, np.ndarray]:
    outputs = session.inner.run(arrays)
    for array in arrays.values():
        array.flags.writeable = True
        array[...] = 0
    return outputs


def races(session: Spoilt, arrays: engines.Arrays) -> dict[str, np.ndarray]:
    session.kept.update(arrays)
    outputs = {}
    for _ in range(20):  # long enough for another thread to come between
        outputs = session.inner.run(dict(session.kept))
    return outputs


@pytest.mark.parametrize(
    ("run", "check"),
    [
        (reuses_buffers, "test_outputs_belong_to_the_caller"),
        (aliases_inputs, "test_outputs_belong_to_the_caller"),
        (widens, "test_names_and_dtypes_are_the_signatures"),
        (renames, "test_names_and_dtypes_are_the_signatures"),
        (casts_quietly, "test_wrong_inputs_are_refused_in_clear_words"),
        (
            clips_inputs_in_place,
            "test_takes_read_only_and_strided_inputs_and_leaves_them_alone",
        ),
        (races, "test_concurrent_calls_agree_when_it_claims_thread_safety"),
    ],
)
def test_a_broken_promise_is_found(
    run: Callable[..., Any], check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = OnnxRuntime.load
    monkeypatch.setattr(OnnxRuntime, "load", lambda *args: Spoilt(honest(*args), run))
    more = {"streams": 2} if run is races else {}
    suite = Suite()
    with (
        suite.opener(tmp_path) as opened,
        pytest.raises((AssertionError, pytest.fail.Exception, KeyError)),
    ):
        getattr(suite, check)(opened, **more)


def test_inexact_defaults_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntime, "is_exact", lambda self, options: False)
    with pytest.raises(AssertionError, match="exact"):
        Suite().test_space_is_small_and_its_default_is_exact(tmp_path)
