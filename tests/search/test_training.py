"""Whole searches that train: a small module, its teacher, a kill in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from strop.errors import InputError, TrustError
from strop.search import Outcome, Request, optimize
from strop.workers import Pool

from .short import BUDGET, settle_speed, share, shorten

NET = """
import os
import pathlib
import time
import torch
from safetensors.torch import load_file
from torch import nn

pause = float(os.environ.get("PAUSE", 0))

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Linear(64, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, pixels):
        if self.training:
            time.sleep(pause)  # long enough to be killed in the middle
        return self.head(torch.relu(self.second(torch.relu(self.first(pixels)))))

def build():
    torch.manual_seed(0)
    net = Net(128)
    weights = pathlib.Path(__file__).with_name("net.safetensors")
    if weights.exists():
        net.load_state_dict(load_file(weights))
    return net.train()  # left in training mode, as users do

def small():
    torch.manual_seed(1)
    return Net(24)

def wrong():
    return nn.Linear(32, 10)

def other():
    return nn.Linear(64, 9)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``net.py`` with trained weights beside it, ``train.npz`` and ``test.npz``."""
    import torch
    from safetensors.torch import save_file
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("net")
    (folder / "net.py").write_text(NET)
    images, target = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    scope: dict[str, object] = {"__file__": str(folder / "net.py")}
    exec(NET, scope)
    net = scope["build"]()  # type: ignore[operator]
    x, y = torch.from_numpy(images[:900]), torch.from_numpy(target[:900])
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(120):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    save_file(net.state_dict(), folder / "net.safetensors")
    np.savez(folder / "train.npz", pixels=images[:900], target=target[:900])
    np.savez(folder / "test.npz", pixels=images[900:], target=target[900:])
    return folder


def request(files: Path, output: Path, **changes: object) -> Request:
    given: dict[str, object] = {
        "model": f"{files / 'net.py'}:build",
        "data": files / "test.npz",
        "train": files / "train.npz",
        "within": "5%",
        "output": output,
        "budget": BUDGET,
        "train_budget": "2h",  # it ends when it is done, after a few seconds of a free machine
        "engines": ["onnxruntime"],
        "techniques": ["distil", "int8-dynamic"],
        "threads": 1,
        "trust": True,
    }
    return Request(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def outcome(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("searched")
        patch.setenv("STROP_CACHE", str(folder / "cache"))
        patch.setenv("STROP_LEDGER", str(folder / "ledger"))
        shorten(patch, patience=20)
        settle_speed(patch, 1.3)
        student = f"{files / 'net.py'}:small"
        return optimize(request(files, folder / "out", student=student))


def test_a_students_recipes_are_trained_once_and_joined_with_the_rest(outcome: Outcome) -> None:
    trained = [
        t for t in outcome.result.trials if any(s.technique == "distil" for s in t.recipe.steps)
    ]
    assert len(trained) > 1, "alone, and quantised"
    assert sum("train" in trial.seconds for trial in trained) == 1
    (why,) = {trial.stopped for trial in trained}
    assert why in (("done",), ("early",), ("time",))
    assert {trial.recipe.steps[0].params["student"] for trial in trained} == {
        trained[0].recipe.steps[0].params["student"]
    }
    assert trained[0].recipe.steps[0].params["student"].startswith("net.py:small#")
    best = max(t.evidence.search_quality.candidate for t in trained if t.evidence.search_quality)
    assert best > outcome.result.trials[0].evidence.search_quality.candidate - 0.05


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a whole search, on whatever else the machine does
def test_time_that_is_left_teaches_a_student_on(
    files: Path, tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, patience=20)
    settle_speed(monkeypatch, 1.3)
    share(monkeypatch, pool)
    # It would have gone on, it says, although it was done after seconds.
    monkeypatch.setattr("strop.search.builder.why_stopped", lambda technique, meta: "time")
    # However slow the machine: time has to be left when all else has been tried.
    monkeypatch.setattr("strop.search.request.TRAIN_SHARE", 0.05)
    given: dict[str, object] = {
        "student": f"{files / 'net.py'}:small",
        "techniques": ["distil"],
    }
    given |= {"budget": "60m", "train_budget": None}
    found = optimize(request(files, tmp_path / "out", **given)).result.trials
    once = next(trial for trial in found if len(trial.recipe.steps) == 1)
    taught = [trial for trial in found if len(trial.recipe.steps) == 2]
    assert taught and all(trial.recipe.steps[0] == once.recipe.steps[0] for trial in taught)
    step = taught[0].recipe.steps[1]
    assert all(trial.recipe.steps[1] == step for trial in taught), "once, whatever follows"
    assert step.params["student"] == "same" and step.params["seconds"] > 0
    assert sum("train" in trial.seconds for trial in taught) == 1


def test_no_path_of_this_machine_is_told(outcome: Outcome, files: Path) -> None:
    for file in outcome.bundle.rglob("*"):
        if file.is_file():
            assert str(files).encode() not in file.read_bytes(), file


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool() as pool:
        yield pool


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"student": "net.py:wrong"}, InputError, "does not take the model's inputs"),
        ({"student": "net.py:other"}, InputError, "the student's output 'output' is"),
        ({"student": "net.py:missing"}, InputError, "missing"),
        ({"train": "labels"}, InputError, "trained"),
    ],
)
def test_what_cannot_be_trained_is_told_before_anything_is_written(
    files: Path,
    tmp_path: Path,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    share(monkeypatch, pool)
    if "student" in changes:
        changes = {"student": str(files / changes["student"])}
    else:
        np.savez(tmp_path / "train.npz", pixels=np.zeros((50, 32), np.float32))
        changes, message = {"train": str(tmp_path / "train.npz")}, r"pixels"
    with pytest.raises(error, match=message):
        optimize(request(files, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_student_is_code_that_runs_only_when_told_to(files: Path, tmp_path: Path) -> None:
    with pytest.raises(TrustError):
        optimize(request(files, tmp_path / "out", student="net.py:small", trust=False))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a whole search, on whatever else the machine does
def test_training_goes_on_after_a_kill(files: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of training; the next run finds the checkpoint and goes on."""
    environment = {**os.environ, "STROP_CACHE": str(tmp_path / "cache"), "PAUSE": "0.02"}
    command = [
        *(sys.executable, "-c", "from strop.cli import main; main()", "optimize"),
        *(f"{files / 'net.py'}:build", "--trust", "--data", str(files / "test.npz")),
        *("--train", str(files / "train.npz"), "--within", "5%", "--budget", BUDGET),
        *("--train-budget", "60s", "--technique", "distil", "--engine", "onnxruntime"),
        *(
            "--student",
            f"{files / 'net.py'}:small",
            "--threads",
            "1",
            "--output",
            str(tmp_path / "out"),
        ),
    ]
    first = subprocess.Popen(
        command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    kept = tmp_path / "cache" / ".kept"
    deadline = time.monotonic() + 600
    while not (found := list(kept.glob("*/distil/checkpoint/progress.json"))):
        assert time.monotonic() < deadline and first.poll() is None, "no checkpoint came"
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    step = json.loads(found[0].read_text())["step"]
    assert step > 0
    second = subprocess.run(
        [*command, "--resume"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode in (0, 3), second.stderr
    events = [
        json.loads(line) for line in (tmp_path / "out" / "journal.jsonl").read_text().splitlines()
    ]
    trained = [
        event["trial"]
        for event in events
        if event["event"] == "trial-finished" and "train" in event["trial"]["seconds"]
    ]
    assert [trial["status"] != "failed" for trial in trained] == [True]
    assert not list(kept.glob("*/distil")), "what was kept is removed once the step is built"
