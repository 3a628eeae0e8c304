"""Several networks for one task in one search: the first is the reference, any may be the start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import strop
from strop.cli.verdict import print_verdict
from strop.errors import InputError
from strop.records import Deployment, Evidence, Interval, Recipe, Signature, Speedup, Step, Trial
from strop.records import TensorSpec as Spec
from strop.search import Outcome, Request, optimize, strategies
from strop.search.networks import disagreement
from strop.search.purse import Purse
from strop.search.space import JointSpace
from strop.workers import Pool

from .digits import fitted, write_data, write_model
from .short import BUDGET, settle_speed, share, shorten

SMALL = (64, 60)


@pytest.fixture(scope="module", autouse=True)
def one_pool() -> Iterator[None]:
    with Pool() as pool, pytest.MonkeyPatch.context() as patch:
        share(patch, pool)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("networks")
    write_model(made / "large.onnx")
    write_model(made / "small.onnx", *SMALL)
    write_data(made / "digits.npz")
    return made


@pytest.fixture(scope="module")
def outcome(folder: Path) -> Outcome:
    """A search in which the small network surely is the faster one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STROP_CACHE", str(folder / "cache"))
        patch.setenv("STROP_LEDGER", str(folder / "ledger.jsonl"))
        shorten(patch, patience=2)
        patch.setattr("strop.search.deliver._CURVE", (1,))
        settle_speed(patch, 1.5)
        patch.setattr("strop.search.prove.cost", lambda trial, goal: float(not trial.recipe.start))
        patch.setattr(
            "strop.search.deliver.cost", lambda trial, goal: float(not trial.recipe.start)
        )
        return strop.optimize(
            [folder / "large.onnx", folder / "small.onnx"],
            folder / "digits.npz",
            within="8%",
            output=folder / "out",
            budget=BUDGET,
            engines=["onnxruntime"],
            techniques=["cleanup"],
        )


def test_recipes_of_every_network_race_and_say_where_they_start(outcome: Outcome) -> None:
    result = outcome.result
    starts = {trial.recipe.start for trial in result.trials}
    assert starts == {"", "small.onnx"}
    assert result.model == "large.onnx"
    assert [network.name for network in result.others] == ["small.onnx"]
    first = result.trials[0]
    assert first.recipe == result.original.recipe
    assert not first.recipe.start
    for trial in result.trials:
        assert str(trial.recipe).startswith("small.onnx → ") == bool(trial.recipe.start)
        assert not (trial.equivalent and trial.recipe.start)


def test_another_network_is_delivered_once_it_is_proven(
    outcome: Outcome, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = outcome.result
    assert result.status == "improved", result.reason
    assert result.delivered.recipe.start == "small.onnx"
    assert result.claim is not None
    assert result.claim.kind == "proven"
    assert "starts from small.onnx" in (outcome.folder / "report.html").read_text()
    assert (
        "small.onnx; the claim is held against large.onnx"
        in (outcome.bundle / "README.md").read_text()
    )
    print_verdict(outcome)
    assert "starts from small.onnx; the original is large.onnx" in capsys.readouterr().out
    manifest = json.loads((outcome.bundle / "manifest.json").read_text())
    assert manifest["recipe"]["start"] == "small.onnx"
    assert manifest["lineage"]["model"] == "large.onnx"
    assert manifest["lineage"]["others"][0]["name"] == "small.onnx"
    weights, images, _ = fitted(*SMALL)
    hidden = np.maximum(images[:5] @ weights[0] + weights[1], 0)
    with strop.load(outcome.bundle) as bundle:
        answered = bundle(pixels=images[:5])["logits"]
    np.testing.assert_allclose(answered, hidden @ weights[2] + weights[3], rtol=1e-3, atol=1e-4)
    figures = strop.bundle.recompute(outcome.bundle)
    assert [figure for figure in figures if figure.agrees is False] == []


def test_a_resumed_search_needs_the_same_networks(outcome: Outcome, folder: Path) -> None:
    request = Request(
        model=[folder / "large.onnx"],
        data=folder / "digits.npz",
        within="8%",
        output=outcome.folder,
        budget=BUDGET,
        engines=["onnxruntime"],
        techniques=["cleanup"],
        resume=True,
    )
    with pytest.raises(InputError, match="it differs in others"):
        optimize(request)


def test_networks_that_do_not_fit_end_in_one_line(folder: Path, tmp_path: Path) -> None:
    large = folder / "large.onnx"
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(large.read_bytes())
    renamed = write_model(tmp_path / "renamed.onnx", pixels="image")
    cases = [
        ([], "there is no model"),
        ([large, copy], "'copy.onnx' is the same network as 'large.onnx'"),
        ([large, renamed], "it takes 'image', not 'pixels'"),
        ([large, tmp_path / "absent.onnx"], r"no file '.*absent\.onnx'"),
    ]
    output = tmp_path / "out"
    for given, said in cases:
        data = folder / "digits.npz"
        with pytest.raises(InputError, match=said) as caught:
            optimize(Request(model=given, data=data, within="1%", output=output))
        assert "\n" not in str(caught.value)
        assert not output.exists()


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (Spec(name="x", dtype="float32", shape=("n", 3, 8)), ""),
        (Spec(name="x", dtype="float32", shape=(None, "c", "t")), ""),
        (Spec(name="x", dtype="float32", shape=None), ""),
        (Spec(name="x", dtype="float32", shape=(1, 3, 8)), "it takes x: float32[1, 3, 8], not"),
        (Spec(name="x", dtype="float32", shape=("n", 4, 8)), "it takes x: float32[n, 4, 8]"),
        (Spec(name="x", dtype="float32", shape=("n", 3)), "it takes x: float32[n, 3]"),
        (Spec(name="x", dtype="int64", shape=("n", 3, 8)), "it takes x: int64"),
    ],
)
def test_what_another_network_has_to_take(own: Spec, said: str) -> None:
    output = Spec(name="y", dtype="float32", shape=("n", 10))
    wanted = Spec(name="x", dtype="float32", shape=("n", 3, 8))
    found = disagreement(_of(wanted, output), _of(own, output))
    assert found.startswith(said) if said else found == ""


def test_what_another_network_has_to_give() -> None:
    taken = Spec(name="x", dtype="float32", shape=("n", 3))
    wanted = Spec(name="y", dtype="float32", shape=("n", None))
    known = Spec(name="y", dtype="float32", shape=("n", 10))
    other = Spec(name="z", dtype="float32", shape=("n", 10))
    assert disagreement(_of(taken, wanted), _of(taken, known)) == ""
    assert disagreement(_of(taken, known), _of(taken, wanted)) == ""
    assert "it gives 'z', not 'y'" in disagreement(_of(taken, known), _of(taken, other))


def _of(given: Spec, output: Spec) -> Signature:
    return Signature(inputs=(given,), outputs=(output,))


DEPLOY = Deployment(engine="onnxruntime")
FASTER = Deployment(engine="openvino")
STEP = Step(technique="int8-static")


def _trial(recipe: Recipe, ratio: float = 1.0, failed_step: int | None = None) -> Trial:
    interval = Interval(estimate=ratio, low=ratio, high=ratio)
    evidence = Evidence(speedups=(Speedup(against="anchor", batch=1, ratio=interval, launches=1),))
    status = "alive" if failed_step is None else "failed"
    return Trial(
        number=0,
        recipe=recipe,
        status=status,
        stage="time",
        failed_step=failed_step,
        evidence=evidence,
    )


def test_each_network_is_tried_plain_first_on_the_engine_that_is_fastest() -> None:
    plain = [
        Recipe(deploy=deploy, start=start)
        for start in ("", "b", "c")
        for deploy in (DEPLOY, FASTER)
    ]
    steps = tuple(Recipe(deploy=FASTER, start=start, steps=(STEP,)) for start in ("", "b", "c"))
    space = JointSpace((*plain, *steps), frozenset(recipe.id for recipe in plain[:2]), ())
    strategy = strategies.get("evidence")
    history = [_trial(plain[0]), _trial(plain[1], 2.0)]
    for start in ("b", "c"):
        found = strategy.propose(space, history, tolerance=0.01, seed=0)
        assert found == Recipe(deploy=FASTER, start=start)
        history.append(_trial(found, 3.0))


def test_a_step_that_fails_on_one_network_may_work_on_another() -> None:
    recipes = tuple(Recipe(deploy=DEPLOY, start=start, steps=(STEP,)) for start in ("", "b"))
    slower = Recipe(deploy=FASTER, steps=(STEP,))
    space = JointSpace((*recipes, slower), frozenset(), ())
    assert space.untried([_trial(recipes[0], failed_step=0)]) == [recipes[1]]


def test_a_step_trained_for_one_network_is_not_trained_for_another() -> None:
    step = Step(technique="qat")
    recipes = tuple(Recipe(deploy=DEPLOY, start=start, steps=(step,)) for start in ("", "b"))
    space = JointSpace(recipes, frozenset(), ())
    purse = Purse(30.0)
    spent = _trial(recipes[0]).model_copy(update={"seconds": {"train": 30.0}})
    purse.note(spent, 0.01)
    assert purse.affordable(space, 1000.0).recipes == recipes[:1]


def test_results_from_before_are_read() -> None:
    old = Recipe(deploy=DEPLOY).to_dict()
    del old["start"]
    assert Recipe.from_dict(old) == Recipe(deploy=DEPLOY)


def test_the_command_line_takes_several_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from strop.cli import optimize as command
    from strop.cli.app import app

    seen: list[Request] = []

    def run(options: command.Options, *, as_json: bool) -> int:
        seen.append(command.request_of(options))
        return 0

    monkeypatch.setattr(command, "run", run)
    for given in (["large.onnx", "small.onnx"], ["large.onnx"]):
        arguments = ["optimize", *given, "--data", "digits.npz", "--within", "1%"]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        assert seen[-1].models == given
