from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from strop.cli.app import app
from strop.comparison import Comparison, compare
from strop.comparison.comparing import timed_batch
from strop.errors import BundleError, InputError, TrustError
from strop.proof import trinomial_upper
from strop.records import Signature, TensorSpec
from strop.testing import graphs, tflite

Network = Callable[..., Path]


def _run(path: Path, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


def test_figures_follow_from_the_outputs(network: Network, examples: Path) -> None:
    a, b = network("a.onnx"), network("b.onnx", noise=0.3)
    found = compare(a, b, examples, launches=0)
    arrays = np.load(examples)
    outputs = [_run(path, arrays["x"]) for path in (a, b)]
    right = [values.argmax(axis=1) == arrays["target"] for values in outputs]
    lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    assert lost and won
    assert found.metric == "accuracy"
    assert (found.lost, found.won) == (lost, won)
    assert found.changed == int((outputs[0].argmax(1) != outputs[1].argmax(1)).sum())
    assert found.a.score == pytest.approx(right[0].mean())
    assert found.b.score == pytest.approx(right[1].mean())
    assert found.difference.estimate == pytest.approx((won - lost) / len(right[0]))
    assert found.difference.low < found.difference.estimate < found.difference.high
    assert found.method == "exact trinomial"
    assert found.may_lose == pytest.approx(trinomial_upper(lost, won, len(right[0]), 0.05))
    norms = np.linalg.norm(outputs[0], axis=1)
    distances = np.linalg.norm(outputs[1] - outputs[0], axis=1)[norms > 0] / norms[norms > 0]
    assert found.max_relative_error == pytest.approx(distances.max(), rel=1e-3)
    assert found.speedup is None and found.a_latency is None


def test_each_side_says_what_it_came_as(network: Network, examples: Path, tmp_path: Path) -> None:
    found = compare(network(), network(), examples, launches=0)
    assert (found.a.kind, found.b.kind) == ("onnx", "onnx")
    pytest.importorskip("openvino")
    case = graphs.linear()
    path = tflite.write(case, tmp_path / "net.tflite")
    np.savez(tmp_path / "rows.npz", **case.inputs(16, 0))
    found = compare(path, path, tmp_path / "rows.npz", launches=0)
    assert (found.a.kind, found.b.kind) == ("tflite", "tflite")


def test_a_model_beside_itself_differs_in_nothing(network: Network, examples: Path) -> None:
    path = network()
    found = compare(path, path, examples, launches=0)
    assert (found.lost, found.won, found.changed) == (0, 0, 0)
    assert found.difference.estimate == 0
    assert found.max_relative_error == 0
    assert found.a == found.b
    assert found.may_lose is not None and 0 < found.may_lose < 0.01


def test_without_targets_agreement_is_scored(network: Network, tmp_path: Path) -> None:
    x = np.random.default_rng(3).standard_normal((300, 6)).astype(np.float32)
    a, b = network("a.onnx"), network("b.onnx", noise=0.3)
    found = compare(a, b, {"x": x}, launches=0)
    assert found.metric == "agreement" and found.method == "Clopper-Pearson"
    assert found.a.score == 1
    assert found.lost == found.changed > 0 and found.won == 0
    assert found.difference.high < 0


def test_duplicates_are_not_independent(network: Network, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    x = np.repeat(random.standard_normal((60, 6)).astype(np.float32), 5, axis=0)
    data = {"x": x, "target": np.repeat(random.integers(0, 4, 60), 5)}
    found = compare(network("a.onnx"), network("b.onnx", noise=0.3), data, launches=0)
    assert (found.examples, found.groups) == (300, 60)
    assert found.method == "clustered betting"
    assert found.difference.low <= found.difference.estimate <= found.difference.high


def test_a_set_level_metric_has_no_exact_bound(
    network: Network, examples: Path, tmp_path: Path
) -> None:
    (tmp_path / "score.py").write_text(
        "def share(outputs, target):\n"
        "    return float((outputs['logits'].argmax(axis=1) == target).mean())\n"
        "share.level = 'set'\n"
    )
    a, b = network("a.onnx"), network("b.onnx", noise=0.3)
    metric = f"{tmp_path / 'score.py'}:share"
    found = compare(a, b, examples, metric=metric, trust=True, launches=0)
    by_example = compare(a, b, examples, launches=0)
    assert found.kind == "set" and found.may_lose is None and found.method == ""
    assert math.isnan(found.difference.low) and math.isnan(found.difference.high)
    assert found.difference.estimate == pytest.approx(by_example.difference.estimate)
    assert Comparison.from_json(found.to_json()).changed == by_example.changed


def test_one_launch_gives_an_estimate_without_ends(network: Network, examples: Path) -> None:
    done = CliRunner().invoke(
        app,
        [
            *("compare", str(network("a.onnx")), str(network("b.onnx", noise=0.1))),
            *("--data", str(examples), "--launches", "1", "--batch", "3", "--json"),
        ],
    )
    assert done.exit_code == 0, done.output
    found = Comparison.from_json(done.stdout)
    assert found.batch == 3
    assert found.speedup is not None and found.speedup.launches == 1
    assert found.speedup.ratio.estimate > 0 and math.isinf(found.speedup.ratio.high)
    assert found.a_latency is not None and found.a_latency.p50.estimate > 0


def test_the_batch_that_a_model_fixes_is_timed() -> None:
    def takes(batch: int | str) -> Signature:
        return Signature(
            inputs=(TensorSpec(name="x", dtype="float32", shape=(batch, 6)),), outputs=()
        )

    assert timed_batch(takes("n"), takes("n"), 3) == 3
    assert timed_batch(takes("n"), takes(8), 3) == 8
    with pytest.raises(InputError, match="2 and 8"):
        timed_batch(takes(2), takes(8), 3)


def test_a_bundle_runs_on_its_own_engine(network: Network, examples: Path, bundle: Path) -> None:
    same = network("same.onnx", noise=0.3)
    found = compare(same, bundle, examples, launches=0)
    assert (found.a.kind, found.b.kind) == ("onnx", "bundle")
    assert found.b.recipe == "onnxruntime(threads=1)"
    assert found.changed == 0 and found.a.score == found.b.score
    other = compare(network(), bundle, examples, launches=0)
    assert other.changed > 0


def test_a_bundle_with_changed_weights_is_not_run(
    network: Network, examples: Path, bundle: Path
) -> None:
    artifact = bundle / "model" / "model.onnx"
    artifact.write_bytes(artifact.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="damaged"):
        compare(network(), bundle, examples, launches=0)


def test_models_that_take_or_give_something_else_are_refused(
    network: Network, examples: Path
) -> None:
    a = network()
    with pytest.raises(InputError, match="take different inputs"):
        compare(a, network("b.onnx", x="image"), examples, launches=0)
    with pytest.raises(InputError, match="no output 'logits'"):
        compare(a, network("c.onnx", y="scores"), examples, launches=0)


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"threads": 0}, {"launches": -1}, {"confidence": 95.0}]
)
def test_options_that_mean_nothing_are_refused(
    network: Network, examples: Path, wrong: dict[str, float]
) -> None:
    path = network()
    with pytest.raises(InputError):
        compare(path, path, examples, **wrong)  # type: ignore[arg-type]


def test_people_read_that_it_is_no_claim(network: Network, examples: Path) -> None:
    a, b = network("a.onnx"), network("b.onnx", noise=0.3)
    command = ["compare", str(a), str(b), "--data", str(examples), "--launches", "0"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    for words in ("accuracy", "onnxruntime", "one-sided", "no claim", "decisions differ"):
        assert words in done.output


@pytest.fixture
def scaled(examples: Path, tmp_path: Path) -> Path:
    """The examples as they are before a preprocessing that halves them."""
    with np.load(examples) as arrays:
        raw = {"x": arrays["x"] * 2, "target": arrays["target"]}
    path = tmp_path / "raw.npz"
    np.savez(path, **raw)
    return path


def code(path: Path, factor: float) -> str:
    path.write_text(
        f"def halved(arrays):\n    return {{'x': arrays['x'] * arrays['x'].dtype.type({factor})}}\n"
    )
    return f"{path}:halved"


def test_the_preprocessing_that_a_bundle_records_is_applied(
    network: Network,
    make_bundle: Callable[..., Path],
    examples: Path,
    scaled: Path,
    tmp_path: Path,
) -> None:
    bundle = make_bundle(preprocess=code(tmp_path / "prep.py", 0.5))
    ready = compare(network(), bundle, examples, launches=0, preprocess="none")
    with pytest.raises(TrustError, match=r"preprocess.py:halved is code"):
        compare(network(), bundle, scaled, launches=0)
    found = compare(network(), bundle, scaled, launches=0, trust=True)
    assert "the examples went through the preprocessing that B records" in found.notes
    assert (found.a.score, found.b.score) == (ready.a.score, ready.b.score)
    assert found.max_relative_error == pytest.approx(ready.max_relative_error)
    # Bundles that record the same agree; one given by hand takes its place.
    twin = make_bundle("twin", preprocess=code(tmp_path / "prep.py", 0.5))
    both = compare(twin, bundle, scaled, launches=0, trust=True)
    assert "that A and B records" in both.notes[0]
    other = make_bundle("other", preprocess=code(tmp_path / "prep.py", 0.25))
    with pytest.raises(InputError, match="different preprocessing"):
        compare(other, bundle, scaled, launches=0, trust=True)
    mine = code(tmp_path / "mine.py", 0.5)
    found = compare(other, bundle, scaled, launches=0, trust=True, preprocess=mine)
    assert found.a.score == ready.b.score


def test_recorded_preprocessing_that_was_changed_is_not_run(
    network: Network, make_bundle: Callable[..., Path], scaled: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(preprocess=code(tmp_path / "prep.py", 0.5))
    (bundle / "preprocess.py").write_text("raise SystemExit(7)\n")
    with pytest.raises(BundleError, match=r"preprocess.py' has changed"):
        compare(network(), bundle, scaled, launches=0, trust=True)


def test_a_budget_cuts_examples_and_launches_and_says_so(network: Network, tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\n\n\ndef right(outputs, target):\n"
        "    return outputs['logits'].argmax(axis=1) == target\n\n\n"
        "def late(arrays):\n    time.sleep(0.002 * len(arrays['x']))\n    return arrays\n"
    )
    data = tmp_path / "many.npz"
    x = random.standard_normal((20_000, 6)).astype(np.float32)
    np.savez(data, x=x, target=random.integers(0, 4, len(x)))
    found = compare(
        network("a.onnx"),
        network("b.onnx", noise=0.3),
        data,
        launches=50,
        budget="8s",  # all of it would take some two minutes
        preprocess=f"{slow}:late",
        trust=True,
    )
    assert found.examples < 20_000
    said = " ".join(found.notes)
    assert f"the budget has time for {found.examples:,} of 20,000 examples" in said
    assert "of 50 paired launches" in said


def test_more_budget_than_needed_changes_nothing(network: Network, examples: Path) -> None:
    a, b = network("a.onnx"), network("b.onnx", noise=0.3)
    free = compare(a, b, examples, launches=0)
    found = compare(a, b, examples, launches=0, budget="10h")
    assert found == free
