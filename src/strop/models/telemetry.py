"""No usage reports: what an engine's packages would send home is blocked before they load."""

from __future__ import annotations

import sys


def quiet_telemetry() -> None:
    """Make `openvino` and `nncf` believe that ``openvino_telemetry`` is not installed.

    Both import it when they load and fall back to a stub that does nothing when that fails. Call
    this before the first import of either; calling it again changes nothing.

    Examples
    --------
    >>> quiet_telemetry()
    >>> import openvino_telemetry
    Traceback (most recent call last):
    ModuleNotFoundError: import of openvino_telemetry halted; None in sys.modules
    """
    for name in [name for name in sys.modules if name.startswith("openvino_telemetry.")]:
        del sys.modules[name]
    # A None entry makes `import openvino_telemetry` raise ModuleNotFoundError (importlib's rule),
    # which is the case that both packages handle; a fake module would have to follow their API.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
