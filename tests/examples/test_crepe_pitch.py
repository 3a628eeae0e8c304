"""The pitch example of examples/zoo: names of notes, frames, and the metric in cents."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

LOWEST, CENTS_PER_BIN = 1997.3794084376191, 20


@pytest.fixture
def metric(files: Path) -> dict[str, Any]:
    return runpy.run_path(str(files / "crepe" / "metric.py"))


@pytest.mark.parametrize(
    ("name", "number"), [("C4", 60), ("A4", 69), ("D#1", 27), ("F#6", 90), ("A0", 21)]
)
def test_a_note_has_the_number_that_midi_gives_it(name: str, number: int) -> None:
    from crepe_pitch import midi

    assert midi(name) == number


def test_cents_are_above_10_hz() -> None:
    from crepe_pitch import cents

    assert cents(69) == pytest.approx(1200 * np.log2(44))
    assert cents(81) - cents(69) == pytest.approx(1200)


def test_a_frame_has_mean_0_and_variance_1_and_silence_stays_finite() -> None:
    from crepe_pitch import normalised

    frame = normalised(np.random.default_rng(0).normal(3.0, 0.01, 1_024))
    assert frame.dtype == np.float32
    assert frame.mean() == pytest.approx(0, abs=1e-5)
    assert frame.std(ddof=1) == pytest.approx(1, abs=1e-5)
    assert np.isfinite(normalised(np.zeros(1_024))).all()


@pytest.mark.parametrize("place", [0, 3, 180, 356, 359])
def test_a_peak_is_heard_where_it_is(metric: dict[str, Any], place: int) -> None:
    salience = np.full((1, 360), 1e-6)
    salience[0, place] = 1.0
    heard = metric["cents"](salience)
    assert heard[0] == pytest.approx(LOWEST + CENTS_PER_BIN * place, abs=0.1)


def test_between_two_bins_the_mean_counts(metric: dict[str, Any]) -> None:
    salience = np.zeros((1, 360))
    salience[0, [100, 101]] = 1.0
    assert metric["cents"](salience)[0] == pytest.approx(LOWEST + CENTS_PER_BIN * 100.5)


def test_half_a_semitone_is_the_limit(metric: dict[str, Any]) -> None:
    salience = np.zeros((4, 360), np.float32)
    salience[:, 200] = 1.0
    true = LOWEST + CENTS_PER_BIN * 200
    target = true + np.array([49.9, -49.9, 50.1, 1_200.0])
    assert metric["fn"]({"salience": salience}, target).tolist() == [1, 1, 0, 0]
    assert metric["fn"].kind == "binary"


def test_a_frame_is_drawn_where_the_note_is_loud_enough() -> None:
    from crepe_pitch import FRAME, _frame

    sound = np.zeros(4 * FRAME)
    sound[:FRAME] = np.sin(np.arange(FRAME) / 5)
    sound[FRAME:] = 1e-6
    rng = np.random.default_rng(0)
    for _ in range(20):  # only frames that still hold some of the loud part pass
        assert _frame(sound, rng).shape == (FRAME,)
        assert np.isfinite(_frame(sound, rng)).all()


def test_the_networks_have_the_published_sizes(files: Path) -> None:
    names = runpy.run_path(str(files / "crepe" / "model.py"))
    with torch.device("meta"):
        full, tiny = names["Crepe"](names["FULL"]), names["Crepe"](names["TINY"])
        assert tiny(torch.zeros(2, 1_024)).shape == (2, 360)
    millions = [sum(w.numel() for w in net.parameters()) / 1e6 for net in (full, tiny)]
    assert millions == [pytest.approx(22.24, abs=0.01), pytest.approx(0.487, abs=0.001)]
