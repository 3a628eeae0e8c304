"""Every error that strop raises on purpose.

A message names what was given and what was expected; the hint names the way out. The command
line prints both on one line and exits with code 2 for :class:`InputError` and its children, with
code 1 for anything else.
"""

from __future__ import annotations


class StropError(Exception):
    """Something went wrong that strop can explain.

    Parameters
    ----------
    message
        What happened and where, in one sentence without a trailing full stop.
    hint
        The way out, as an imperative, if there is one.

    Examples
    --------
    >>> str(StropError("no data were given", hint="pass --data FILE"))
    'no data were given; pass --data FILE'
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class InputError(StropError):
    """What the user gave cannot be used: the command line exits with code 2."""


class ModelError(InputError):
    """The model cannot be read, or is not safe to read."""


class DataError(InputError):
    """The examples cannot be read, or do not fit the model."""


class MetricError(InputError):
    """The metric is unknown, raises, or returns something that is not a score."""


class MissingExtra(InputError):
    """An optional package is not installed.

    Examples
    --------
    >>> str(MissingExtra("openvino", extra="openvino"))
    "the package 'openvino' is not installed; run: pip install 'strop[openvino]'"
    """

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(
            f"the package '{package}' is not installed",
            hint=f"run: pip install 'strop[{extra}]'",
        )
        self.package = package
        self.extra = extra


class TrustError(InputError):
    """The input is code, and the user has not said that it may run."""


class BundleError(StropError):
    """A bundle is damaged, incomplete or of another schema."""


class NotApplicable(StropError):
    """A technique or an engine cannot handle this model; the message is the reason."""
