"""Which dtype may stand for which: casts that lose nothing, or nearly nothing and are told."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

Cast = Literal["same", "widens", "rounds", "narrows", "unsafe"]

_TEXT = "OUT"


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype that a signature names; text is ``object``, as ONNX Runtime takes it.

    >>> numpy_dtype("float32").itemsize, numpy_dtype("str").kind, numpy_dtype("bfloat16").itemsize
    (4, 'O', 2)
    """
    if name == "str":
        return np.dtype(object)
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found


def cast_of(given: np.dtype[Any], wanted: str) -> Cast:
    """What happens to values of the dtype `given` on their way into an input.

    - ``same`` and ``widens``: nothing is lost.
    - ``rounds``: a float becomes a shorter float; allowed, and told.
    - ``narrows``: an integer becomes a shorter integer; allowed when every value survives.
    - ``unsafe``: another kind of number. Pixels as uint8 for a float32 input nearly always lack a
      division by 255, so kinds never change silently.

    >>> cast_of(np.dtype("int32"), "int64"), cast_of(np.dtype("uint8"), "float32")
    ('widens', 'unsafe')
    """
    if wanted == "str":
        return "same" if given.kind in _TEXT else "unsafe"
    target = numpy_dtype(wanted)
    if given == target:
        return "same"
    if _is_float(given) and _is_float(target):
        return "widens" if given.itemsize < target.itemsize else "rounds"
    if given.kind in "iu" and target.kind in "iu":
        return "widens" if np.can_cast(given, target, "safe") else "narrows"
    return "unsafe"


def cast(values: np.ndarray, wanted: str) -> np.ndarray:
    """`values` as the dtype `wanted`, in C order; the cast must not be ``unsafe``.

    Raises
    ------
    OverflowError
        When an integer does not fit.
    """
    target = numpy_dtype(wanted)
    kind = cast_of(values.dtype, wanted)
    if kind == "narrows" and values.size:
        limits = np.iinfo(target)
        low, high = int(values.min()), int(values.max())
        if low < limits.min or high > limits.max:
            raise OverflowError(f"{low if low < limits.min else high} is beyond {target.name}")
    with np.errstate(over="ignore"):  # becomes infinite, which `check` counts
        return np.ascontiguousarray(values, dtype=target)


def _is_float(dtype: np.dtype[Any]) -> bool:
    # ml_dtypes' bfloat16 and float8 are of kind "V" for numpy.
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)
