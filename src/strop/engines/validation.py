"""Whether arrays fit a signature, checked before a runtime sees them."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from strop.errors import InputError
from strop.records import Signature, TensorSpec


def validate(arrays: Mapping[str, np.ndarray], signature: Signature) -> None:
    """Refuse arrays whose names, dtypes, ranks or dimensions differ from the signature's.

    A symbol must have one length in all inputs: runtimes trust that, and OpenVINO for one reads
    past the end of the shorter array without a word. It runs on every call of a session, costs a
    few microseconds, and looks at no element.

    Raises
    ------
    InputError
        Names the first input that does not fit, what was given and what the model takes.

    Examples
    --------
    >>> from strop.records import Signature, TensorSpec
    >>> x = TensorSpec(name="x", dtype="float32", shape=("n", 3))
    >>> validate({"x": np.zeros((2, 4), np.float32)}, Signature(inputs=(x,), outputs=()))
    Traceback (most recent call last):
    strop.errors.InputError: input 'x' is float32[2, 4], but the model takes float32[n, 3]
    """
    lengths: dict[str, tuple[int, str]] = {}
    for spec in signature.inputs:
        array = arrays.get(spec.name)
        if array is None:
            raise InputError(
                f"input '{spec.name}' is missing, the arrays given are: {_listed(arrays)}",
                hint=f"pass {', '.join(signature.input_names)}",
            )
        if not isinstance(array, np.ndarray):
            raise InputError(
                f"input '{spec.name}' is a {type(array).__name__}, but the model takes an array",
                hint=f"pass numpy.asarray(values, dtype='{spec.dtype}')",
            )
        if not _dtype_fits(array, spec.dtype):
            raise _misfit(array, spec, hint=f"cast it to {spec.dtype}")
        if not _shape_fits(array.shape, spec):
            raise _misfit(array, spec)
        for dim, length in zip(spec.shape or (), array.shape, strict=False):
            if isinstance(dim, str):
                known, where = lengths.setdefault(dim, (length, spec.name))
                if known != length:
                    raise InputError(
                        f"'{dim}' is {length} in input '{spec.name}', but {known} in '{where}'",
                        hint="make them equal",
                    )
    if len(arrays) != len(signature.inputs):
        unknown = _listed(arrays.keys() - set(signature.input_names))
        raise InputError(
            f"the model has no input called {unknown}",
            hint=f"pass {', '.join(signature.input_names)}",
        )


def _dtype_fits(array: np.ndarray, dtype: str) -> bool:
    if dtype == "str":
        return array.dtype.kind in "OUT"
    return bool(array.dtype == _native(dtype))


@functools.cache
def _native(dtype: str) -> np.dtype:
    if dtype == "bfloat16":
        import ml_dtypes

        extended: np.dtype = np.dtype(ml_dtypes.bfloat16)
        return extended
    return np.dtype(dtype)


def _shape_fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    if spec.shape is None:
        return True
    if len(shape) != len(spec.shape):
        return False
    return all(
        not isinstance(wanted, int) or wanted == given
        for wanted, given in zip(spec.shape, shape, strict=True)
    )


def _misfit(array: np.ndarray, spec: TensorSpec, *, hint: str | None = None) -> InputError:
    given = f"{array.dtype}[{', '.join(map(str, array.shape))}]"
    wanted = str(spec).removeprefix(f"{spec.name}: ")
    return InputError(f"input '{spec.name}' is {given}, but the model takes {wanted}", hint=hint)


def _listed(names: object) -> str:
    shown = ", ".join(f"'{name}'" for name in sorted(map(str, names)))  # type: ignore[call-overload]
    return shown or "none"
