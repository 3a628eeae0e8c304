from __future__ import annotations

import pytest

from strop.report.svg import Axis, Svg, tick_text


@pytest.mark.parametrize("log", [False, True])
def test_an_axis_keeps_what_is_outside_at_its_ends(log: bool) -> None:
    axis = Axis(1.0, 100.0, 0.0, 50.0, log=log)
    assert (axis(0.5), axis(1.0), axis(100.0), axis(1e6)) == (0.0, 0.0, 50.0, 50.0)
    assert axis(10.0) == pytest.approx(25.0 if log else 50 * 9 / 99)


def test_an_axis_may_run_backwards_and_may_have_no_length() -> None:
    assert Axis(0.0, 1.0, 100.0, 0.0)(0.25) == 75.0
    assert Axis(2.0, 2.0, 0.0, 10.0)(2.0) == 5.0
    assert Axis(2.0, 2.0, 0.0, 10.0).ticks() == [2.0]


@pytest.mark.parametrize(
    ("low", "high", "log", "texts"),
    [
        (0.0, 1.0, False, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-0.3, 1.1, False, ["−0.25", "0.00", "0.25", "0.50", "0.75", "1.00"]),
        (0.25, 3.5, True, ["0.3", "1.0", "3.0"]),
        (
            300.0,
            500_000.0,
            True,
            ["1,000", "10,000", "100,000"],
        ),
        (2.71, 2.98, True, ["2.75", "2.80", "2.85", "2.90", "2.95"]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, log: bool, texts: list[str]) -> None:
    ticks = Axis(low, high, 0.0, 1.0, log=log).ticks(5)
    assert all(low <= tick <= high for tick in ticks)
    assert [tick_text(ticks)(tick) for tick in ticks] == texts


def test_attributes_and_texts_are_escaped() -> None:
    picture = Svg(10, 10, label='"<&')
    picture.text(1, 2, "<script>", class_='"><x')
    text = str(picture.markup())
    assert "<script>" not in text and "<x" not in text
    assert 'aria-label="&#34;&lt;&amp;"' in text
