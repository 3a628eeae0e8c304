"""Which step brought what: only what was measured is told, and what was not is said."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from strop import report
from strop.records import Candidate, Interval, Recipe, Result, Step, Trial
from strop.report import breakdown, trained
from strop.report.ladder import ladder, over
from strop.report.numbers import Score
from strop.report.record import Training

from . import made
from .reading import Page

PRUNE = Step(technique="prune", params={"ratio": 0.5})
DISTIL = Step(technique="distil", params={"student": "narrow-0.25"})
INT8 = Step(technique="int8-static", params={"per_channel": True})
META = {
    "prune": {
        "parameters_before": 2_780_000,
        "parameters_after": 700_000,
        "recovery": [
            {"steps": 10, "epochs": 1.0, "stopped": "time"},
            {"steps": 20, "epochs": 2.0, "stopped": "early"},
        ],
    },
    "distil": {
        "steps": 800,
        "epochs": 3.5,
        "lr": 0.01,
        "precision": "float32",
        "loss": 0.125,
        "quality": "accuracy",
        "before": 0.1,
        "best": 0.92,
        "stopped": "early",
        "judged": {"on": "search", "examples": 400},
        "trained": {"on": 256, "of": 960, "chosen": "coreset"},
        "warnings": ["too few steps to choose a learning rate"],
    },
}


def trial(number: int, recipe: Recipe, speed: float | None, **more: Any) -> Trial:
    base = made.trials()[0]
    evidence = base.evidence.model_copy(
        update={"speedups": () if speed is None else (made.speedup("anchor", speed),)}
    )
    values = {"status": "alive", "stage": "time", "seconds": {}, **more}
    return base.model_copy(
        update={"number": number, "recipe": recipe, "evidence": evidence, **values}
    )


def delivering(recipe: Recipe, *trials: Trial) -> Result:
    base = made.improved()
    evidence = base.delivered.evidence
    return base.model_copy(
        update={
            "delivered": Candidate(recipe=recipe, text=str(recipe), evidence=evidence),
            "trials": trials,
        }
    )


def test_every_rung_that_was_tried_is_told_and_the_gains_multiply() -> None:
    first = made.recipe("onnxruntime", DISTIL)
    both = made.recipe("onnxruntime", DISTIL, INT8)
    last = made.recipe("openvino", DISTIL, INT8)
    found = ladder(
        delivering(
            last,
            trial(0, made.ORIGINAL, 1.0),
            trial(1, first, 3.0),
            trial(2, both, 4.5),
            trial(3, last, 9.0, status="chosen"),
        ),
        {},
    )
    assert found is not None
    assert found.order == "engine-last" and found.against == "the original"
    assert [rung.kind for rung in found.rungs] == ["original", "technique", "technique", "engine"]
    assert [rung.trial for rung in found.rungs] == [0, 1, 2, 3]
    gains = [rung.gain.estimate for rung in found.rungs if rung.gain is not None]
    assert gains == pytest.approx([3.0, 1.5, 2.0])
    assert found.rungs[-1].speed is not None
    assert found.rungs[-1].speed.estimate == pytest.approx(math.prod(gains))
    assert all(rung.reason == "" and rung.together == () for rung in found.rungs)


def test_what_settings_brought_is_a_rung_of_its_own() -> None:
    def at(recipe: Recipe, **place: int) -> Recipe:
        return recipe.model_copy(update={"deploy": recipe.deploy.model_copy(update=place)})

    untuned = made.recipe("openvino", INT8)
    last = at(untuned, batch=16, threads=1, streams=2)
    found = ladder(
        delivering(
            last,
            trial(0, made.ORIGINAL, 1.0),
            trial(1, made.recipe("onnxruntime", INT8), 2.0),
            trial(2, untuned, 3.0),
            trial(3, last, 4.5, status="chosen"),
        ),
        {},
    )
    assert found is not None
    assert [rung.kind for rung in found.rungs] == ["original", "technique", "engine", "setting"]
    assert [rung.trial for rung in found.rungs] == [0, 1, 2, 3]
    setting = found.rungs[-1]
    assert setting.name == "batch 16, 2 calls at once, 1 thread each"
    assert setting.gain is not None and setting.gain.estimate == pytest.approx(1.5)
    # Of the same engine, settings alone are no change of engine.
    alone = at(made.ORIGINAL, threads=1)
    found = ladder(delivering(alone, trial(0, made.ORIGINAL, 1.0), trial(1, alone, 1.2)), {})
    assert found is not None and found.order == "one-engine"
    assert [rung.kind for rung in found.rungs] == ["original", "setting"]
    assert found.rungs[1].name == "batch 1, 1 call at a time, 1 thread"


def test_a_step_that_was_never_tried_alone_has_no_figure_and_its_gain_is_shared() -> None:
    last = made.recipe("openvino", DISTIL, INT8)
    found = ladder(
        delivering(
            last,
            trial(0, made.ORIGINAL, 1.0),
            trial(1, made.recipe("openvino"), 1.5),
            trial(2, last, 9.0, status="chosen"),
        ),
        {},
    )
    assert found is not None
    # The engine was measured alone, the techniques on the original's engine were not.
    assert found.order == "engine-first"
    engine, distilled, quantised = found.rungs[1:]
    assert engine.kind == "engine" and engine.gain is not None
    assert distilled.speed is None and distilled.gain is None and distilled.trial is None
    assert distilled.reason == "never tried alone"
    assert quantised.gain is not None and quantised.gain.estimate == pytest.approx(6.0)
    assert quantised.together == (str(DISTIL),)


def test_a_trial_that_was_dropped_or_had_other_options_says_so() -> None:
    last = made.recipe("openvino", DISTIL, INT8, precision="bf16")
    dropped = made.recipe("openvino", DISTIL, precision="bf16")
    reason = "loses 6.20% on 128 examples: outside 1.00%"
    found = ladder(
        delivering(
            last,
            trial(0, made.ORIGINAL, 1.0),
            trial(1, made.recipe("openvino", precision="f32"), 1.5),
            trial(2, dropped, None, status="dropped", stage="screen", reason=reason),
            trial(3, last, 9.0, status="chosen"),
        ),
        {},
    )
    assert found is not None
    _, engine, distilled, quantised = found.rungs
    assert engine.reason.startswith("measured on openvino(f32)")
    assert distilled.reason == f"not timed alone: {reason}" and distilled.drop is not None
    assert quantised.together == (str(DISTIL), "precision=bf16")


def test_an_original_that_the_race_did_not_time_is_no_base() -> None:
    original = made.recipe("torch")
    last = made.recipe("openvino", INT8)
    result = delivering(
        last,
        trial(0, original, None, stage="evaluate"),
        trial(1, made.recipe("openvino"), 1.0),
        trial(2, last, 2.0, status="chosen"),
    )
    given = result.original.model_copy(update={"recipe": original})
    found = ladder(result.model_copy(update={"original": given}), {})
    assert found is not None
    assert found.against == "openvino"
    assert found.rungs[0].speed is None
    assert found.rungs[0].reason == "not timed by the search, only at the end"
    assert [rung.speed and rung.speed.estimate for rung in found.rungs] == [None, 1.0, 2.0]


def test_another_network_to_start_from_is_a_rung_of_its_own() -> None:
    small = Recipe(start="small", deploy=made.ORIGINAL.deploy)
    last = Recipe(start="small", steps=(INT8,), deploy=made.ORIGINAL.deploy)
    found = ladder(
        delivering(
            last,
            trial(0, made.ORIGINAL, 1.0),
            trial(1, small, 4.0),
            # Not to be taken for the same step on the small network.
            trial(2, made.recipe("onnxruntime", INT8), 1.7),
            trial(3, last, 6.0, status="chosen"),
        ),
        {},
    )
    assert found is not None and found.order == "one-engine"
    assert [(rung.kind, rung.name) for rung in found.rungs[1:]] == [
        ("network", "small"),
        ("technique", str(INT8)),
    ]
    assert [rung.trial for rung in found.rungs] == [0, 1, 3]


def test_nothing_is_broken_down_where_the_original_went_back() -> None:
    assert ladder(delivering(made.ORIGINAL, trial(0, made.ORIGINAL, 1.0)), {}) is None


def test_what_a_step_recorded_of_its_training_is_told() -> None:
    last = made.recipe("onnxruntime", DISTIL)
    other = made.recipe(
        "onnxruntime", Step(technique="distil", params={"student": "shallow-0.5"}), INT8
    )
    result = delivering(
        last,
        trial(0, made.ORIGINAL, 1.0),
        trial(1, other, 1.8, seconds={"train": 50.0}),
        trial(2, last, 3.0, status="chosen", seconds={"train": 61.5}),
    )
    found = ladder(result, META)
    assert found is not None
    rung = found.rungs[-1]
    assert rung.train_seconds == 61.5
    assert rung.student == "a copy with 25% of every layer's channels"
    (run,) = rung.trainings
    assert (run.epochs, run.loss, run.stopped) == (3.5, 0.125, "early")
    assert (run.judged_on, run.judged) == ("search", 400)
    assert (run.examples, run.of, run.chosen) == (256, 960, "coreset")
    (setting,) = rung.others
    assert setting.text == "distil(shallow-0.5)" and setting.trial == 1
    assert setting.speed == pytest.approx(1.8)
    (row,) = [row for row in breakdown.step_rows(found, Score.of(result)) if row.details]
    text = " ".join(row.details)
    assert "3.5 epochs in 800 steps, on chosen as a coreset: 256 of 960 examples" in text
    assert "stopped early" in text and "the loss was 0.125 at the end" in text
    assert "went from 10.00% to 92.00%, judged on 400 examples of the search part" in text
    assert "It trained for 1 min 01 s." in text
    assert "distil(shallow-0.5): 1.80× at its best" in text
    assert "too few steps to choose a learning rate" in text


def test_seconds_that_two_steps_share_belong_to_neither() -> None:
    last = made.recipe("onnxruntime", PRUNE, DISTIL)
    result = delivering(
        last,
        trial(0, made.ORIGINAL, 1.0),
        trial(1, last, 3.0, status="chosen", seconds={"train": 99.0}),
    )
    found = ladder(result, META)
    assert found is not None
    _, pruned, distilled = found.rungs
    assert pruned.train_seconds is None and distilled.train_seconds is None
    assert pruned.parameters == (2_780_000, 700_000)
    assert [run.part for run in pruned.trainings] == ["recovery 1 of 2", "recovery 2 of 2"]


@pytest.mark.parametrize("told", [None, 3, "x", [], {"epochs": "many", "judged": 7, "trained": []}])
def test_what_is_of_another_type_is_not_known(told: Any) -> None:
    for run in trained.trainings("distil", {"distil": told}):
        assert run == Training()
    assert trained.parameters("distil", {"distil": told}) is None


def test_a_ratio_without_an_interval_has_none() -> None:
    known = Interval(estimate=2.0, low=1.9, high=2.1)
    for odd in (
        Interval(estimate=1.0, low=math.nan, high=math.nan),
        Interval(estimate=1.0, low=0.0, high=math.inf),
    ):
        assert over(known, odd).estimate == 2.0
        assert math.isnan(over(known, odd).low) and math.isnan(over(odd, known).high)
    wide = over(known, known)
    assert wide.low < 1 < wide.high


def test_the_page_shows_the_steps_and_the_bundles_training(tmp_path: Path) -> None:
    last = made.recipe("openvino", DISTIL)
    result = delivering(
        last, trial(0, made.ORIGINAL, 1.0), trial(1, last, 3.0, status="chosen", seconds={})
    )
    folder = made.folder(tmp_path / "out", result)
    manifest = folder / result.bundle / "manifest.json"
    manifest.write_text(json.dumps({"lineage": {"meta": META}}))
    page = Page(report.write(folder).read_text(encoding="utf-8"))
    assert page.faults == []
    assert "Which step brought what" in page.text
    assert "never tried alone" in page.text
    assert "3.5 epochs in 800 steps" in page.text
    assert len(page.all("svg", "rung")) == 3
    manifest.write_text("{")
    damaged = Page(report.write(folder).read_text(encoding="utf-8"))
    assert "manifest.json cannot be read" in damaged.text
    assert "3.5 epochs" not in damaged.text
