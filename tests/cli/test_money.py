"""Prices and rates that make no sense: one line, exit code 2, and nothing is written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


def _strop(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from strop.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--price", "-1/h"], "above zero"),
        (["--price", "nan/h"], "above zero"),
        (["--price", "0.18"], "for how long"),
        (["--price", "0.18/h", "--rate", "200"], "rate"),
        (["--goal", "cost"], "--price"),
        (["--watts-per-core", "0"], "above zero"),
    ],
)
def test_optimize_refuses_nonsense(
    options: list[str],
    why: str,
    network: Callable[..., Path],
    examples: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    line = ["optimize", str(network()), "--data", str(examples), "--within", "1%"]
    done = _strop(*line, "--output", str(out), *options)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and why in done.stderr
    assert not out.exists() and not done.stdout


def test_bench_refuses_nonsense(bundle: Path) -> None:
    done = _strop("bench", str(bundle), "--price", "0/h")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("above zero")
