"""What techniques that train ask of the training room."""

from __future__ import annotations

from pathlib import Path

from strop import data
from strop.models.model import Model
from strop.techniques import Context
from strop.techniques.teaching import train_settings
from strop.testing import graphs
from strop.testing.targets import target
from strop.training import TrainSettings

PARAMS = {"temperature": 2, "labels": 0.25}


def settings(folder: Path, *, keep: Path | None = None, **params: object) -> TrainSettings:
    model: Model = graphs.linear().write(folder / "model")
    rows = data.read(graphs.linear().inputs(8, 0), model.signature)
    ctx = Context(folder / "out", target(), {"train": rows}, keep=keep, seconds=9.0)
    return train_settings(model, rows, {**PARAMS, **params}, ctx, epochs=3.0)


def test_parameters_and_surroundings_decide(tmp_path: Path) -> None:
    found = settings(tmp_path, rows="random")
    assert (found.temperature, found.label_weight, found.examples) == (2.0, 0.25, "random")
    assert (found.seconds, found.epochs, found.batch) == (9.0, 3.0, 128)
    assert found.threads == len(target().machine.cpus)


def test_a_step_may_have_other_seconds_than_its_share(tmp_path: Path) -> None:
    assert settings(tmp_path, seconds=4.0).seconds == 4.0


def test_the_teacher_is_remembered_beside_what_a_step_keeps(tmp_path: Path) -> None:
    kept = settings(tmp_path / "a", keep=tmp_path / ".kept" / "step").teacher_cache
    other = settings(tmp_path / "b", keep=tmp_path / ".kept" / "other").teacher_cache
    assert kept == other and kept is not None and kept.parent == tmp_path / ".kept"
    alone = settings(tmp_path / "c").teacher_cache
    assert alone is not None and alone.parent == tmp_path / "c" / "out" / "scratch"
