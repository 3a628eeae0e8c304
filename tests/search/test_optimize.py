"""Whole searches on a small real model: the claim, the bundle, bad input, kill and resume."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import strop
from strop.errors import InputError
from strop.measure import PairTiming
from strop.records import Result
from strop.search import Outcome, Request, optimize
from strop.workers import Pool

from .digits import fitted, write_data, write_model
from .short import BUDGET, STROP, share, shorten


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "digits.onnx")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "digits.npz")


@pytest.fixture(scope="module")
def outcome(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("outcome")
    request = Request(
        model=model,
        data=data,
        within="3%",
        output=folder / "out",
        budget=BUDGET,
        engines=["onnxruntime", "openvino"],
        techniques=["int8-dynamic", "int8-nncf"],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STROP_CACHE", str(folder / "cache"))
        patch.setenv("STROP_LEDGER", str(folder / "ledger.jsonl"))
        shorten(patch)
        return optimize(request)


@pytest.fixture
def one_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with Pool() as pool:
        share(monkeypatch, pool)
        yield


def test_a_search_ends_with_a_result_that_says_what_was_done(outcome: Outcome) -> None:
    result = outcome.result
    assert result == Result.read(outcome.folder / "result.json")
    assert result.trials[0].recipe == result.original.recipe
    assert len(result.trials) > 3
    assert result.claim is not None
    assert {"calibrate", "search", "prove"} <= set(result.data.roles)
    assert sum(result.data.roles.values()) == len(fitted()[1])
    if result.status == "improved":
        against = {found.against: found.ratio for found in result.delivered.evidence.speedups}
        assert against["equivalent"].low > 1
        assert result.claim.upper is not None
        assert result.claim.upper <= result.tolerance
    else:
        assert result.claim.kind == "equivalent"
        assert result.reason


def test_the_bundle_runs_and_is_what_the_claim_says(outcome: Outcome) -> None:
    weights, images, target = fitted()
    with strop.load(outcome.bundle) as bundle:
        logits = bundle(pixels=images)["logits"]
    hidden = np.maximum(images.astype(np.float64) @ weights[0] + weights[1], 0)
    exact = hidden @ weights[2] + weights[3]
    reference = np.mean(exact.argmax(axis=1) == target)
    delivered = np.mean(logits.argmax(axis=1) == target)
    assert reference - delivered < outcome.result.tolerance
    if outcome.result.claim is not None and outcome.result.claim.kind == "equivalent":
        np.testing.assert_allclose(logits, exact, rtol=1e-2, atol=1e-3)


def test_the_figures_can_be_recomputed_from_the_evidence(outcome: Outcome) -> None:
    figures = strop.bundle.recompute(outcome.bundle)
    assert figures
    assert [figure for figure in figures if figure.agrees is False] == []


def test_too_few_examples_are_a_warning_and_only_equivalents_are_tried(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_data(tmp_path / "few.npz", rows=60)
    shorten(monkeypatch)
    found = optimize(
        Request(model=model, data=data, within="1%", output=tmp_path / "out", budget=BUDGET)
    )
    assert any("too few" in line for line in found.result.warnings)
    assert found.result.claim is not None
    assert found.result.claim.kind == "equivalent"
    steps = {step.technique for trial in found.result.trials for step in trial.recipe.steps}
    assert steps <= {"cleanup"}


@pytest.mark.usefixtures("one_pool")
def test_bad_input_leaves_nothing_behind(model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    truncated = tmp_path / "half.onnx"
    truncated.write_bytes(model.read_bytes()[:1000])
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, pixels=np.zeros((50, 63), np.float32), target=np.zeros(50, np.int64))
    with np.load(data) as arrays:
        given = dict(arrays)
    beyond, alike = tmp_path / "beyond.npz", tmp_path / "alike.npz"
    # One is enough: among the rows of the proof it would end a search that is all but done.
    np.savez(beyond, **(given | {"target": np.append(given["target"][:-1], 13)}))
    np.savez(alike, **{name: np.repeat(array[:1], 60, axis=0) for name, array in given.items()})
    metric = tmp_path / "metric.py"
    metric.write_text("def fn(outputs, target):\n    raise RuntimeError('no such luck')\n")
    good = {"model": model, "data": data, "within": "1%", "output": output, "budget": BUDGET}
    cases: list[tuple[dict[str, object], str]] = [
        ({"model": truncated}, "half.onnx"),
        ({"model": tmp_path / "absent.onnx"}, "absent.onnx"),
        ({"model": tmp_path}, "is a folder, not a model; name a model.onnx"),
        ({"data": wrong}, "pixels"),
        ({"data": tmp_path / "absent.npz"}, "absent.npz"),
        ({"within": "0"}, "tolerance"),
        ({"metric": f"{metric}:fn", "trust": True}, "no such luck"),
        ({"metric": f"{metric}:fn"}, "trust"),
        ({"metric": "nonsense"}, "nonsense"),
        ({"strategy": "nonsense"}, "nonsense"),
        ({"goal": "beauty"}, "beauty"),
        ({"engines": ["onnx"]}, "no engine called 'onnx'; known: .*onnxruntime"),
        ({"techniques": ["fp16", "int8"]}, "no technique called 'int8'; known: .*int8-static"),
        ({"seed": -1}, "seed is -1"),
        ({"data": beyond}, "class 13"),
        ({"data": alike}, "59 rows repeat others"),
        ({"output": "/proc/nowhere/out"}, "written"),
        ({"resume": True}, "resume"),
    ]
    for change, said in cases:
        with pytest.raises(InputError, match=said) as caught:
            optimize(Request(**(good | change)))  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        assert not output.exists()


def test_an_output_folder_of_somebody_else_is_refused(
    model: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="has not written"):
        optimize(Request(model=model, data=data, within="1%", output=tmp_path, budget=BUDGET))
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_the_command_line_answers_bad_input_with_one_line_and_code_2(
    data: Path, tmp_path: Path
) -> None:
    command = [*STROP, "optimize", str(tmp_path / "absent.onnx"), "--data", str(data)]
    done = subprocess.run(
        [*command, "--within", "1%", "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    *remarks, told = done.stderr.splitlines()
    assert told.startswith("strop: ") and "absent.onnx" in told
    assert all(line.startswith("[") for line in remarks)


def test_a_killed_search_is_resumed_without_repeating_its_trials(
    model: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = [*STROP, "optimize", str(model), "--data", str(data), "--within", "3%"]
    command += ["--output", str(output), "--budget", BUDGET, "--engine", "onnxruntime", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = output / "journal.jsonl"
    deadline = time.monotonic() + 200
    while not journal.exists() or journal.read_text().count('"trial-finished"') < 2:
        assert time.monotonic() < deadline, "no two trials came"
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = _trials(journal)
    assert len(before) >= 2
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    assert f"going on after {len(before)} trials" in done.stderr
    result = Result.from_json(done.stdout)
    assert [trial.number for trial in result.trials] == list(range(len(result.trials)))
    after = _trials(journal)
    assert after[: len(before)] == before
    assert len({number for number, _ in after}) == len(after)


def test_a_machine_too_slow_for_any_final_timing_still_gets_an_answer(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> PairTiming:
        return PairTiming(np.array([]), (), (), (), batch=1, shortened=True, settled=True)

    shorten(monkeypatch, patience=1)
    monkeypatch.setattr("strop.search.retiming.pair", none)
    found = optimize(
        Request(
            model=model,
            data=data,
            within="3%",
            output=tmp_path / "out",
            budget=BUDGET,
            engines=["onnxruntime"],
            techniques=[],
        )
    )
    result = found.result
    assert result.status == "unimproved"
    assert any("no launch ended within" in line for line in result.warnings)
    assert result.delivered.evidence.speedups == () == result.delivered.evidence.latency
    assert [it for it in strop.bundle.recompute(found.bundle) if it.agrees is False] == []
    with strop.load(found.bundle) as bundle:
        assert bundle(pixels=fitted()[1][:2])["logits"].shape == (2, 10)


def _trials(journal: Path) -> list[tuple[int, str]]:
    """Number and recipe of each, once: those that are timed again are told of again."""
    events = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    found = (
        (event["trial"]["number"], json.dumps(event["trial"]["recipe"], sort_keys=True))
        for event in events
        if event["event"] == "trial-finished"
    )
    return list(dict.fromkeys(found))
