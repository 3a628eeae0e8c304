"""A small drawing board: SVG elements with escaped values, and axes with round ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


class Svg:
    """An SVG picture of a given size in user units.

    Without a label it is an ornament that screen readers pass over; with `role` ``group`` its
    parts are read one by one. Attribute names are Python's: ``class_`` becomes ``class``, and
    ``text_anchor`` ``text-anchor``.

    Examples
    --------
    >>> picture = Svg(10, 10, label="a & b")
    >>> picture.add("rect", x=1, width=2.5)
    >>> "a &amp; b" in picture.markup()
    True
    """

    def __init__(
        self, width: float, height: float, *, label: str, class_: str = "", role: str = "img"
    ) -> None:
        said = {"role": role, "aria_label": label}
        self._head = Markup("<svg{}>").format(
            _attributes(
                {
                    "viewBox": f"0 0 {_number(width)} {_number(height)}",
                    "class_": class_,
                    **(said if label else {"aria_hidden": "true"}),
                }
            )
        )
        self._parts: list[Markup] = []
        self._open: list[str] = []

    def add(self, tag: str, text: str | None = None, /, **attributes: str | float) -> None:
        """Draw one element; `text` is its content."""
        content = Markup("") if text is None else escape(text)
        self._parts.append(
            Markup("<{}{}>{}</{}>").format(Markup(tag), _attributes(attributes), content, tag)
        )

    def open(self, tag: str, **attributes: str | float) -> None:
        """Begin an element that holds others, until :meth:`close`."""
        self._parts.append(Markup("<{}{}>").format(Markup(tag), _attributes(attributes)))
        self._open.append(tag)

    def close(self) -> None:
        self._parts.append(Markup("</{}>").format(self._open.pop()))

    def line(self, x1: float, y1: float, x2: float, y2: float, **attributes: str | float) -> None:
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)

    def text(self, x: float, y: float, text: str, **attributes: str | float) -> None:
        self.add("text", text, x=x, y=y, **attributes)

    def markup(self) -> Markup:
        return self._head + Markup("").join(self._parts) + Markup("</svg>")


@dataclass(frozen=True)
class Axis:
    """Maps values onto positions, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The position of `value`, kept within the axis."""
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values inside the axis, some `about` of them."""
        return _log_ticks(self, about) if self.log else _linear_ticks(self, about)


def tick_text(ticks: Sequence[float], suffix: str = "") -> Callable[[float], str]:
    """One way to write all ticks of an axis: the fewest decimals that tell them exactly.

    Examples
    --------
    >>> [tick_text([0.0, 0.25, 0.5])(tick) for tick in (0.0, 0.25)]
    ['0.00', '0.25']
    """
    near = 1e-6 * max((abs(tick) for tick in ticks), default=1.0)
    decimals = next(
        (d for d in range(9) if all(abs(tick - round(tick, d)) <= near for tick in ticks)), 9
    )

    def text(value: float) -> str:
        return f"{value + 0.0:,.{decimals}f}".replace("-", "−") + suffix

    return text


def _linear_ticks(axis: Axis, about: int) -> list[float]:
    span = axis.high - axis.low
    if not span > 0:
        return [axis.low]
    power = 10.0 ** math.floor(math.log10(span / about))
    steps = [power * nice for nice in (1, 2, 2.5, 5, 10)]
    step = min(steps, key=lambda step: abs(span / step - about))
    first = math.ceil(axis.low / step - 1e-9)
    return [k * step for k in range(first, math.floor(axis.high / step + 1e-9) + 1)]


def _log_ticks(axis: Axis, about: int) -> list[float]:
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    best: list[float] = []
    for digits in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        values = [digit * 10.0**power for power in powers for digit in digits]
        found = [value for value in values if axis.low <= value <= axis.high]
        if abs(len(found) - about) < abs(len(best) - about):
            best = found
    # Less than an octave: the logarithm is nearly straight, and so are round steps.
    return best if len(best) >= 3 else _linear_ticks(axis, about)


def _attributes(attributes: Mapping[str, str | float]) -> Markup:
    return Markup("").join(
        Markup(' {}="{}"').format(
            Markup(name.rstrip("_").replace("_", "-")),
            value if isinstance(value, str) else _number(value),
        )
        for name, value in attributes.items()
    )


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"
