"""By which examples a run judges itself, and which it learns from when time is short."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch

from strop.data import Dataset
from strop.training import TrainSettings as Settings
from strop.training import train
from strop.training.checkpoint import load

from .conftest import FORM, Net, accuracy, arrays, dataset

TrainSettings = functools.partial(Settings, threads=1)
SHORT = TrainSettings(epochs=6, batch=32, lr=1e-2, patience=None)


def student() -> Net:
    torch.manual_seed(1)
    return Net(8)


def run(net, teacher, given, workdir, settings=SHORT, **more):
    data = given if isinstance(given, Dataset) else dataset(given)
    return train(
        net, form=FORM, teacher=teacher, data=data, settings=settings, workdir=workdir, **more
    )


def test_the_search_split_judges_and_all_training_examples_are_learnt_from(
    teacher, tmp_path
) -> None:
    net, judge = student(), arrays(400, 6)
    report = run(net, teacher, arrays(960, 1), tmp_path, judge=dataset(judge), metric="accuracy")
    assert (report.judged_on, report.judged, report.quality) == ("search", 400, "accuracy")
    assert (report.rows, report.of, report.chosen) == (960, 960, "all")
    assert report.steps == 6 * (960 // 32)
    # What it reports is what the weights that were kept give on those examples.
    assert report.best == pytest.approx(accuracy(net, judge))
    assert report.facts()["judged"] == {"on": "search", "examples": 400}


def test_too_few_to_judge_by_leave_it_to_a_part_of_the_training_examples(teacher, tmp_path) -> None:
    report = run(student(), teacher, arrays(960, 1), tmp_path, judge=dataset(arrays(40, 6)))
    assert (report.judged_on, report.judged, report.rows) == ("held out", 96, 864)


@pytest.mark.parametrize(
    ("labels", "metric", "quality"),
    [
        (True, "", "accuracy"),
        (False, "", "agreement"),
        (True, "agreement", "agreement"),
        (True, "mine.py:score", "accuracy"),  # code of the user's own is not run here
        (False, "accuracy", "agreement"),  # which needs labels
    ],
)
def test_the_metric_of_the_search_judges_where_it_can(
    teacher, tmp_path, labels, metric, quality
) -> None:
    judge = dataset(arrays(200, 6, labels=labels))
    settings = TrainSettings(epochs=1, batch=32, lr=1e-2)
    report = run(
        student(),
        teacher,
        arrays(320, 1, labels=False),
        tmp_path,
        settings,
        judge=judge,
        metric=metric,
    )
    assert report.quality == quality


def test_the_best_weights_by_the_judge_are_kept(teacher, tmp_path) -> None:
    """A judge with false labels keeps the start, whatever was learnt."""
    judge = arrays(200, 6)
    net = student()
    with torch.no_grad():
        start = net.eval()(torch.from_numpy(judge["x"])).argmax(1).numpy()
    report = run(
        net,
        teacher,
        arrays(640, 1),
        tmp_path,
        judge=dataset({**judge, "target": start}),
        metric="accuracy",
    )
    assert report.best == report.before == 1.0
    assert accuracy(net, {**judge, "target": start}) == 1.0


def test_a_budget_below_one_pass_trains_on_a_coreset_of_its_size(teacher, tmp_path) -> None:
    given = arrays(960, 1)
    settings = TrainSettings(epochs=0.25, batch=32, lr=1e-2, examples="coreset")
    report = run(student(), teacher, given, tmp_path, settings, judge=dataset(arrays(200, 6)))
    assert (report.chosen, report.rows, report.of) == ("coreset", 256, 960)
    assert report.facts()["trained"] == {"on": 256, "of": 960, "chosen": "coreset"}
    assert "short of one epoch: 256 of 960" in report.warnings[-1]
    chosen = load(tmp_path, _identity(tmp_path))[1]["rows"].numpy()
    with torch.no_grad():
        chances = teacher(torch.from_numpy(given["x"])).softmax(1).numpy()
    hardness = np.linalg.norm(chances - np.eye(4)[given["target"]], axis=1)
    assert np.median(hardness[chosen]) > 1.5 * np.median(hardness)


def test_what_is_judged_by_its_own_training_examples_says_so(teacher, tmp_path) -> None:
    given = arrays(64, 1)
    settings = TrainSettings(epochs=2, batch=32, lr=1e-2, held_out=0.01)
    report = run(student(), teacher, given, tmp_path, settings)
    assert report.judged_on == "trained on" and report.judged == 64
    assert any("judged by what it is trained on" in line for line in report.warnings)


@pytest.mark.parametrize(("wanted", "rows"), [("random", 256), ("all", 960)])
def test_the_same_number_at_random_and_all_of_them(teacher, tmp_path, wanted, rows) -> None:
    settings = TrainSettings(epochs=0.25, batch=32, lr=1e-2, examples=wanted)
    judge = dataset(arrays(200, 6))
    report = run(student(), teacher, arrays(960, 1), tmp_path, settings, judge=judge)
    assert (report.chosen, report.rows, report.steps) == (wanted, rows, 8)


def test_a_resumed_run_keeps_its_examples(teacher, tmp_path) -> None:
    class Killed(BaseException):
        pass

    settings = TrainSettings(epochs=0.25, batch=32, lr=1e-2, examples="coreset")
    more = {"judge": dataset(arrays(200, 6))}
    whole, again = student(), student()
    run(whole, teacher, arrays(960, 1), tmp_path / "whole", settings, **more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("strop.training.trainer._SAVE_EVERY", 0.0)
        steps = iter(range(4))

        def after(net) -> None:
            if next(steps) == 3:
                raise Killed

        with pytest.raises(Killed):
            run(
                student(),
                teacher,
                arrays(960, 1),
                tmp_path / "cut",
                settings,
                after_step=after,
                **more,
            )
    report = run(again, teacher, arrays(960, 1), tmp_path / "cut", settings, **more)
    assert report.resumed == 3 and report.chosen == "coreset"
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def _identity(folder):
    return json.loads((folder / "checkpoint" / "progress.json").read_text())["identity"]
