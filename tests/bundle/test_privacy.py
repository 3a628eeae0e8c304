from __future__ import annotations

from pathlib import Path

import pytest

from strop.bundle.privacy import scrub


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("/home/ada/models/net.onnx", "net.onnx"),
        ("no space in '/root/cache/x': disk full", "no space in 'x': disk full"),
        ("50 img/s, n/a, and/or", "50 img/s, n/a, and/or"),
        ("/layer1/0/conv/Conv", "/layer1/0/conv/Conv"),
        ("score.py:f1", "score.py:f1"),
        (
            'Traceback (most recent call last):\n  File "/x.py", line 1\nValueError: no',
            "ValueError: no",
        ),
        (["/home/ada", {"/home/ada/x": 1.5}], ["ada", {"x": 1.5}]),
        (None, None),
    ],
)
def test_what_goes_and_what_stays(given, left):
    assert scrub(given) == left


def test_whatever_exists_here_goes(tmp_path: Path):
    (tmp_path / "x.npz").touch()
    assert scrub(f"{tmp_path}/x.npz:fn") == "x.npz:fn"
