"""What a model, and a version of it, may be called: in paths, in files, and in metrics."""

from __future__ import annotations

import re

from strop.serve.errors import BadRequest

PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""As a regular expression; besides, no two dots stand together."""

_NAME = re.compile(PATTERN)
_RESERVED = ("stats",)  # /v2/models/stats is the statistics of all models


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a model.

    Examples
    --------
    >>> check_name("resnet-18.v2")
    >>> check_name("../x")
    Traceback (most recent call last):
    strop.serve.errors.BadRequest: '../x' is not a model's name; ...
    """
    if not is_name(name):
        shown = name[:60].encode("ascii", "backslashreplace").decode()
        raise BadRequest(
            f"'{shown}' is not a model's name",
            hint="letters, digits and . _ - make one, of at most 128 characters",
        )


def is_name(name: str) -> bool:
    """Whether a model or a version may have this name."""
    return bool(_NAME.fullmatch(name)) and ".." not in name and name not in _RESERVED
