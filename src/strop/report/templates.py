"""What lies beside this file: the HTML templates and the styles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template

HERE = Path(__file__).parent

_UNPRINTABLE = dict.fromkeys(
    [
        *(code for code in range(0x20) if chr(code) not in "\n\t"),
        *range(0x7F, 0xA0),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),
    ],
    "\N{REPLACEMENT CHARACTER}",
)


def get(name: str) -> Template:
    """A template that escapes what it is given and refuses names that it was not given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def figure_style() -> str:
    """The style of the pictures alone, which a picture of its own carries along."""
    return (HERE / "figures.css").read_text()


def printable(text: str) -> str:
    """Text without the characters that HTML forbids and those that turn the reading direction.

    Names and reasons come from outside, and may hold any.
    """
    return text.translate(_UNPRINTABLE)
