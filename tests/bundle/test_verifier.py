from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from strop.bundle import verifier as module
from strop.bundle import verify, write
from strop.errors import InputError, TrustError
from strop.measure import PairTiming
from strop.records import BatchLatency

from .conftest import altered
from .test_loader import flip


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings are measure's to test; here they take no time."""
    import strop.measure

    def curve(spec, inputs_by_batch, **_):
        (batch,) = inputs_by_batch
        return (BatchLatency(batch=batch, p50_seconds=0.001, p99_seconds=0.002),)

    def pair(a, b, inputs, *, launches, **_):
        assert Path(a.artifact).exists()
        return PairTiming(
            log_ratios=np.log([2.0, 2.1, 1.9, 2.0, 2.0])[:launches],
            quads=(),
            a_seconds=(),
            b_seconds=(),
            batch=len(inputs["x.1"]),
            shortened=False,
            settled=True,
        )

    monkeypatch.setattr(strop.measure, "curve", curve)
    monkeypatch.setattr(strop.measure, "pair", pair)


def relisted(bundle: Path, name: str, content: bytes) -> None:
    """Another file in place of one of the bundle's, with its digest in the manifest."""
    (bundle / name).write_bytes(content)
    document = json.loads((bundle / "manifest.json").read_text())
    document["files"][name] = hashlib.sha256(content).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(document))


def statuses(found) -> dict[str, str]:
    return {check.name: check.status for check in found.checks}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_without_data_nothing_fails_and_the_claim_stays_open(make, tmp_path, engine):
    write(tmp_path / "bundle", make(engine))
    lines: list[str] = []
    found = verify(tmp_path / "bundle", emit=lines.append)
    assert found.ok
    assert found.verdict == "unproven"
    assert statuses(found) == {
        "files": "ok",
        "load": "ok",
        "sample": "ok",
        "figures": "ok",
        "speed": "unproven",
        "claim": "unproven",
        "machine": "ok",
    }
    assert "timing" in lines
    assert json.loads(found.to_json())["schema"] == 1


def test_a_proven_claim_is_confirmed_on_its_data(make, tmp_path, data):
    write(tmp_path / "bundle", make(proven=True))
    found = verify(tmp_path / "bundle", data=data)
    assert found.verdict == "confirmed", found.checks
    assert "450 examples" in next(it.detail for it in found.checks if it.name == "claim")


def test_the_proof_set_is_found_in_shuffled_data(make, tmp_path, data):
    write(tmp_path / "bundle", make(proven=True))
    with np.load(data) as arrays:
        order = np.random.default_rng(4).permutation(len(arrays["target"]))
        shuffled = {name: arrays[name][order] for name in arrays.files}
    found = verify(tmp_path / "bundle", data=shuffled)
    assert found.verdict == "confirmed", found.checks


def test_a_part_of_the_proof_set_confirms_nothing(make, tmp_path, data):
    write(tmp_path / "bundle", make(proven=True))
    with np.load(data) as arrays:
        part = {name: arrays[name][:400] for name in arrays.files}
    found = verify(tmp_path / "bundle", data=part)
    assert found.verdict == "unproven"
    claim = next(check for check in found.checks if check.name == "claim")
    assert claim.detail == (
        "the data hold 350 of the 450 examples of the proof set; missing are those that stood in "
        "rows 400–499 of data.npz; the claim is about all of them, and is tested on all or not at "
        "all"
    )


def test_scattered_gaps_in_the_proof_set_are_named_as_far_as_they_fit(make, tmp_path, data):
    write(tmp_path / "bundle", make(proven=True))
    with np.load(data) as arrays:
        gaps = [60, 80, 81, 82, 99, 120, 300, 301]
        part = {name: np.delete(arrays[name], gaps, axis=0) for name in arrays.files}
    claim = next(it for it in verify(tmp_path / "bundle", data=part).checks if it.name == "claim")
    assert "hold 442 of the 450" in claim.detail
    assert "rows 60, 80–82, 99, 120, … (8 in all) of data.npz" in claim.detail


def test_other_data_are_told_apart_from_a_part_of_the_right_ones(make, tmp_path):
    write(tmp_path / "bundle", make(proven=True))
    other = {
        "x.1": np.random.default_rng(9).normal(size=(40, 4)).astype(np.float32),
        "target": np.zeros(40, np.int64),
    }
    found = verify(tmp_path / "bundle", data=other)
    claim = next(it for it in found.checks if it.name == "claim")
    assert found.verdict == "unproven"
    assert claim.detail.startswith(
        "none of the 450 examples of the proof set are among the 40 given (data.npz was searched)"
    )


@pytest.mark.parametrize("honest", [True, False])
def test_a_set_level_claim_is_tested_again(
    make_set_level, tmp_path, weights, data, original, honest
):
    from .conftest import build

    contents = make_set_level()
    if not honest:  # the digests will fit: only the outputs tell
        worse = weights.copy()
        worse[:, 0] *= 3
        contents = altered(contents, artifact=build(worse, "onnxruntime", tmp_path / "worse"))
    write(tmp_path / "bundle", contents)
    alone = verify(tmp_path / "bundle", data=data, trust=True)
    assert alone.verdict == "unproven"
    assert "pass --original" in next(it.detail for it in alone.checks if it.name == "claim")
    found = verify(tmp_path / "bundle", data=data, original=original, trust=True)
    claim = next(it for it in found.checks if it.name == "claim")
    assert found.verdict == ("confirmed" if honest else "refuted"), claim
    if honest:
        assert f"at most {contents.claim.upper:.4g}" in claim.detail


def test_a_worse_model_is_refuted(make, tmp_path, weights, data):
    """The digests fit, so that only the outputs tell that the model is not the proven one."""
    from .conftest import build

    contents = make(proven=True)
    bad = build(-weights, "onnxruntime", tmp_path / "bad")
    write(tmp_path / "bundle", altered(contents, artifact=bad))
    found = verify(tmp_path / "bundle", data=data)
    assert found.verdict == "refuted"
    assert not found.ok


def test_the_original_is_timed_and_compared(make, tmp_path, data, original):
    write(tmp_path / "bundle", make())
    found = verify(tmp_path / "bundle", data=data, original=original)
    assert found.verdict == "confirmed", found.checks
    speed = next(check for check in found.checks if check.name == "speed")
    assert speed.status == "ok"
    assert speed.detail.startswith("2.00× [1.9")
    assert statuses(found)["original"] == "unproven"  # the fixture records no real digest


def test_an_equivalence_that_does_not_hold_fails(make, tmp_path, weights, original, data):
    from .conftest import build

    worse = build(weights * 1.01, "onnxruntime", tmp_path / "worse")
    write(tmp_path / "bundle", altered(make(), artifact=worse))
    found = verify(tmp_path / "bundle", data=data, original=original)
    assert statuses(found)["sample"] == "failed"
    assert found.verdict == "refuted"


@pytest.mark.parametrize(
    "name",
    ["model/model.onnx", "evidence/scores.npz", "evidence/result.json", "run.py", "README.md"],
)
def test_a_flipped_byte_anywhere_fails(make, tmp_path, name):
    write(tmp_path / "bundle", make())
    flip(tmp_path / "bundle" / name)
    found = verify(tmp_path / "bundle")
    (check,) = found.checks  # what was changed is not run
    assert (check.name, check.status) == ("files", "failed")
    assert f"'{name}' has changed" in check.detail


def test_missing_and_added_files_fail(make, tmp_path):
    write(tmp_path / "bundle", make())
    (tmp_path / "bundle/run.py").unlink()
    (tmp_path / "bundle/extra").write_text("")
    (check,) = verify(tmp_path / "bundle").checks
    assert "'run.py' is missing" in check.detail
    assert "'extra' is not listed" in check.detail


def test_another_instruction_set_leaves_the_claim_open(make, tmp_path, data):
    contents = make(proven=True)
    claim = contents.claim.model_copy(update={"isa": (*contents.claim.isa, "amx_int9")})
    write(tmp_path / "bundle", altered(contents, claim=claim))
    before = verify(tmp_path / "bundle")
    assert statuses(before)["machine"] == "unproven"
    assert "lacks amx_int9" in before.checks[-1].detail
    after = verify(tmp_path / "bundle", data=data)
    assert statuses(after)["machine"] == "ok"


def test_a_beautified_figure_fails(make, tmp_path):
    contents = make(proven=True)
    claim = contents.claim.model_copy(update={"upper": 0.0001})
    write(tmp_path / "bundle", altered(contents, claim=claim))
    found = verify(tmp_path / "bundle")
    assert statuses(found)["figures"] == "failed"
    assert not found.ok


def packed(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def single() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\3\4 and nothing more",
        single(),
        packed(**{"outputs/y": np.zeros(3)}),
        packed(**{"inputs/x.1": np.array([{"a": 1}], dtype=object)}),
    ],
    ids=["empty", "cut short", "one array", "no inputs", "a pickle"],
)
def test_a_sample_that_is_none_is_a_failed_check(make, tmp_path, content):
    write(tmp_path / "bundle", make())
    relisted(tmp_path / "bundle", "evidence/sample.npz", content)
    found = verify(tmp_path / "bundle")
    assert statuses(found) == {"files": "ok", "sample": "failed"}


def test_scores_that_cannot_be_read_leave_the_claim_open(make, tmp_path, data):
    write(tmp_path / "bundle", make(proven=True))
    relisted(tmp_path / "bundle", "evidence/scores.npz", b"none")
    found = verify(tmp_path / "bundle", data=data)
    assert statuses(found)["figures"] == "failed"
    assert statuses(found)["claim"] == "unproven"


@pytest.mark.parametrize(
    ("ratios", "status"),
    [
        ([1.4, 1.5, 1.6], "ok"),
        ([0.9, 1.0, 1.1], "unproven"),
        ([0.7, 0.71, 0.72], "failed"),  # slower than promised
        ([0.5], "unproven"),  # one launch has no interval
    ],
)
def test_the_interval_decides_on_the_speed(
    make, tmp_path, original, monkeypatch, ratios: list[float], status: str
):
    import strop.measure

    write(tmp_path / "bundle", make())
    told = strop.measure.pair

    def timed(*args, **kwargs):
        return dataclasses.replace(told(*args, **kwargs), log_ratios=np.log(ratios))

    monkeypatch.setattr(strop.measure, "pair", timed)
    found = verify(tmp_path / "bundle", original=original)
    assert statuses(found)["speed"] == status


@pytest.mark.parametrize("streams", [1, 2])
def test_what_was_won_by_calls_at_once_is_timed_so(make, tmp_path, original, monkeypatch, streams):
    import strop.measure

    contents = make()
    deploy = contents.recipe.deploy.model_copy(update={"streams": streams})
    recipe = contents.recipe.model_copy(update={"deploy": deploy})
    write(tmp_path / "bundle", altered(contents, recipe=recipe))
    told, seen = strop.measure.pair, []

    def timed(a, b, inputs, *, conditions, **options):
        seen.append((conditions.concurrent, b.placement.streams))
        return told(a, b, inputs, **options)

    monkeypatch.setattr(strop.measure, "pair", timed)
    verify(tmp_path / "bundle", original=original)
    assert seen == [(streams > 1, streams)]


def test_recorded_code_asks_for_trust(make, tmp_path, data):
    source = tmp_path / "code.py"
    source.write_text("def same(arrays):\n    return arrays\n")
    write(tmp_path / "bundle", altered(make(proven=True), preprocess=f"{source}:same"))
    with pytest.raises(TrustError, match=r"preprocess.py:same is code"):
        verify(tmp_path / "bundle", data=data)
    found = verify(tmp_path / "bundle", data=data, trust=True)
    assert found.verdict == "confirmed", found.checks
    assert not (tmp_path / "bundle/__pycache__").exists()


def test_a_metric_of_the_users_is_run_from_the_bundle(make, tmp_path, data):
    from strop.models.user_code import load_function

    source = tmp_path / "score.py"
    source.write_text(
        "def right(outputs, target):\n    return outputs['y'].argmax(axis=1) == target\n"
    )
    contents = make(proven=True)
    sha256 = load_function(f"{source}:right", trust=True).sha256
    metric = {"name": "score.py:right", "function": f"{source}:right", "sha256": sha256}
    lineage = {**contents.lineage, "metric": {**metric, "kind": "binary"}}
    write(tmp_path / "bundle", altered(contents, lineage=lineage))
    source.unlink()
    with pytest.raises(TrustError):
        verify(tmp_path / "bundle", data=data)
    assert verify(tmp_path / "bundle", data=data, trust=True).verdict == "confirmed"


def test_no_bundle_is_bad_input(tmp_path):
    with pytest.raises(InputError):
        verify(tmp_path)


def test_the_speed_is_measured_for_real(make, tmp_path, monkeypatch):
    monkeypatch.undo()
    write(tmp_path / "bundle", make())
    check = module.verify(tmp_path / "bundle").checks[4]
    assert check.name == "speed"
    assert "ms here (batch 1)" in check.detail
