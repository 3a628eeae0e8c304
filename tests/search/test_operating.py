"""Settings found in a search: whose they are, what is recorded of them, and where they are used."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from strop.bundle import load, recompute, verify
from strop.measure import describe
from strop.records import (
    Deployment,
    Evidence,
    OperatingPoint,
    Recipe,
    Result,
    Step,
    Target,
    Trial,
)
from strop.search import Request, operating, optimize
from strop.search.operating import Settings, finalists
from strop.search.tuning import Setting, setting_of, tuned

from .digits import write_data, write_model
from .short import BUDGET, settle_speed, shorten
from .test_deliver import trial as timed
from .test_tuning import Machine

LIMIT = 60.0
"""Seconds: no call of the real machine takes so long, those of the simulated one do."""
ORIGINAL = Machine(overhead=1.0, work=9.0, parallel=0.0, crowd=0.0, wake=0.0, tail=1.0)
CANDIDATE = Machine(overhead=1.0, work=1.0, parallel=0.0, crowd=0.0, wake=0.0, tail=1.0)


def simulate(patch: pytest.MonkeyPatch) -> list[str]:
    """Let settings do what simulated machines say; names of what was asked, as they come."""
    asked: list[str] = []

    def measure(self: Settings, setting: Setting) -> OperatingPoint:
        asked.append(f"{self._name}: {setting}")
        return (ORIGINAL if self._name == "the original" else CANDIDATE).at(setting)

    patch.setattr(operating.Settings, "__call__", measure)
    return asked


def test_a_search_tunes_within_the_limit_and_its_settings_go_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = write_model(tmp_path / "digits.onnx"), write_data(tmp_path / "digits.npz")
    shorten(monkeypatch, patience=1, tuning=True)
    settle_speed(monkeypatch, 2.0)
    asked = simulate(monkeypatch)
    outcome = optimize(
        Request(
            model=model,
            data=data,
            within="3%",
            goal="throughput",
            max_p99_seconds=LIMIT,
            budget=BUDGET,
            strategy="exhaustive",
            output=tmp_path / "out",
            engines=["onnxruntime"],
            techniques=[],
        )
    )
    result = outcome.result
    cores = result.machine.cores
    # The original: 4 examples a call keep the limit, and 2 of them bring nearly as much.
    assert asked[0].startswith("the original: batch 1,")
    assert result.target.batch == 2 and result.trials[0].recipe.deploy.batch == 2
    assert {trial.recipe.deploy.batch for trial in result.trials} == {2, 32}
    found = [trial for trial in result.trials if trial.evidence.points]
    assert found
    for trial in found:
        # A call of 32 takes 33 s of the simulated machine, one of 64 more than the limit.
        deploy, (latency,) = trial.recipe.deploy, trial.evidence.latency
        assert (deploy.batch, deploy.threads, deploy.streams) == (32, 1, cores)
        assert (latency.batch, latency.threads, latency.streams) == (32, 1, cores)
        assert trial.equivalent and trial.status in ("front", "alive", "chosen", "dropped")
        assert trial.evidence.points[0].batch == 2
        assert Setting(32, 1, cores) in map(setting_of, trial.evidence.points)
    (latency,) = result.delivered.evidence.latency
    deploy = result.delivered.recipe.deploy
    assert latency.batch == deploy.batch
    assert result.operation.startswith(f"at most 60 s at p99: batch {deploy.batch}, ")
    assert Result.read(outcome.folder / "result.json").operation == result.operation
    timings = json.loads((outcome.bundle / "evidence" / "timings.json").read_bytes())
    batches = {(raw["batch"], raw["b_batch"]) for raw in timings.values()}
    assert (2, deploy.batch) in batches
    assert [str(it) for it in recompute(outcome.bundle) if it.agrees is False] == []
    checks = verify(outcome.bundle, original=model, launches=1).checks
    assert not [check for check in checks if check.status == "failed"]
    with load(outcome.bundle) as bundle:
        assert bundle.spec.placement.threads == (deploy.threads or cores)
        assert bundle.concurrency == deploy.streams


def test_a_limit_that_nothing_keeps_is_said_to_be_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = write_model(tmp_path / "digits.onnx"), write_data(tmp_path / "digits.npz")
    shorten(monkeypatch, patience=1, tuning=True)
    outcome = optimize(
        Request(
            model=model,
            data=data,
            within="3%",
            max_p99_seconds=1e-9,
            budget=BUDGET,
            output=tmp_path / "out",
            engines=["onnxruntime"],
            techniques=[],
        )
    )
    result = outcome.result
    assert result.status == "unimproved"
    assert result.operation.startswith("not within 1e-06 ms at p99: batch 1, 1 call at a time")
    assert any("within --max-p99" in warning for warning in result.warnings)
    assert all("--max-p99" in trial.reason for trial in result.trials)


class Arena:
    """Tells the rounds of the anchor and of two settings, as it is given them."""

    def __init__(self, rounds: list[tuple[float, float]]) -> None:
        self._rounds, self._names = rounds, ["anchor"]

    def add(self, name: str, *_: Any) -> None:
        self._names.append(name)

    def round(self) -> None: ...

    def drop(self, name: str) -> None: ...

    def timings(self) -> dict[str, Any]:
        anchor, mine = self._rounds[len(self._names) - 2]

        def told(seconds: float) -> Any:
            rounds = np.full(5, seconds)
            return SimpleNamespace(rounds=rounds, calls=rounds, error=None)

        return {name: told(mine) for name in self._names} | {"anchor": told(anchor)}


@pytest.mark.parametrize(
    ("second", "gain"),
    [
        ((2.0, 0.5), 2.0),  # twice as fast, by the clock and beside the anchor
        ((4.0, 1.0), 1.0),  # the anchor was slower, so all of the machine is: the same
        ((3.2, 1.2), 1 / 1.2),  # what slowed the anchor slowed it less: no gain of its own
        ((1.0, 1.0), 0.5),  # slower than its neighbour was
    ],
)
def test_a_setting_gains_nothing_by_what_slows_the_anchor(
    second: tuple[float, float], gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Any = SimpleNamespace(
        say=lambda line: None,
        clock=SimpleNamespace(phase=lambda _: contextlib.nullcontext()),
        target=SimpleNamespace(batch=1),
        payload_for=lambda spec: None,
    )
    monkeypatch.setattr(operating, "timing_inputs", lambda *_: {})
    monkeypatch.setattr(operating, "_placed", lambda spec, setting: spec)
    arena: Any = Arena([(2.0, 1.0), second])
    with Settings(place, arena, SimpleNamespace(), anchor="anchor", name="#1") as measure:  # type: ignore[arg-type]
        found = [measure(Setting(1, threads)) for threads in (2, 1)]
    one, other = (point.throughput for point in found if point is not None)
    assert one == pytest.approx(1.0) and other == pytest.approx(gain)


def test_run_py_gives_the_engine_the_threads_that_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strop.bundle.runner import script

    signature = describe_signature()
    point = Machine().at(Setting(4, 2, 3))
    for form, engine, line in (
        ("onnx", "onnxruntime", "options.intra_op_num_threads = 4\n"),
        ("openvino", "openvino", '"INFERENCE_NUM_THREADS": "6"'),
        ("exported", "torch", "torch.set_num_threads(2)\n"),
    ):
        plain = Recipe(deploy=Deployment(engine=engine))
        assert line in script(form, "model/x", signature, tuned(plain, point))
        told = script(form, "model/x", signature, plain)
        assert "threads" not in told and "NUM_THREADS" not in told
        compile(told, "run.py", "exec")
    spins = Recipe(deploy=Deployment(engine="onnxruntime", options={"spinning": False}))
    assert 'allow_spinning", "0"' in script("onnx", "model/x", signature, spins)


def test_the_finalists_are_the_best_of_each_kind_whatever_their_settings() -> None:
    def trial(number: int, faster: float, *, engine: str = "openvino", **more: Any) -> Trial:
        points = more.pop("points", ())
        names = ("threads", "streams", "options")
        place = {name: more.pop(name) for name in names if name in more}
        steps = (Step(technique=more.pop("step")),) if "step" in more else ()
        base = timed(number, faster)
        evidence = base.evidence.model_copy(update={"points": points})
        recipe = Recipe(steps=steps, deploy=Deployment(engine=engine, **place))
        return base.model_copy(update={"recipe": recipe, "evidence": evidence, **more})

    point = Machine().at(Setting(1, 1))
    trials = [
        trial(0, 1.0, engine="onnxruntime", equivalent=True),
        trial(1, 1.5, equivalent=True, threads=1, streams=2),
        trial(2, 1.4, equivalent=True),  # of #1 only the settings differ
        trial(10, 1.45, equivalent=True, options={"shapes": "static"}),  # the same engine
        trial(3, 3.0, step="fp16"),
        trial(4, 2.9, step="int8"),
        trial(5, 2.8, step="prune"),
        trial(6, 1.1, step="cleanup"),  # far behind the best of its kind
        trial(7, 9.0, step="distil", status="dropped"),
        trial(8, 4.0, step="qat"),
        trial(9, 5.0, step="qat", threads=1, points=(point,)),  # tuned already
    ]
    place: Any = SimpleNamespace(
        task=SimpleNamespace(goal="latency"), tolerance=0.05, target=Target(machine=describe())
    )
    assert [it.number for it in finalists(trials, place)] == [1, 3, 0, 4]
    assert Evidence().points == ()


def describe_signature() -> Any:
    from strop.records import Signature, TensorSpec

    x = TensorSpec(name="x", dtype="float32", shape=("n", 3))
    return Signature(inputs=(x,), outputs=(x,))
