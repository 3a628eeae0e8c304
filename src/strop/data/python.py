"""Examples made by the user's own function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from strop.data._base import Column, Reader
from strop.errors import DataError
from strop.models.user_code import UserFunction, is_user_code, load_function
from strop.records import Signature


class PythonReader(Reader):
    """Calls ``file.py:fn`` without arguments and keeps what it gives in memory.

    The function yields one dict an example, name → array without the leading dimension, or
    returns one dict of arrays that hold all examples.
    """

    name: ClassVar[str] = "python"

    def reads(self, source: str) -> bool:
        return is_user_code(source)

    def open(self, source: str, signature: Signature | None, *, trust: bool) -> dict[str, Column]:
        function = load_function(source, trust=trust)
        try:
            result = function()
            if isinstance(result, Mapping):
                return {name: np.asarray(values) for name, values in result.items()}
            return _stacked(function, result)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{function} raises {type(error).__name__}: {error}",
                hint="it is called without arguments and yields one dict of arrays an example",
            ) from error


def _stacked(function: UserFunction, examples: Any) -> dict[str, Column]:
    if not isinstance(examples, Iterable):
        raise DataError(
            f"{function} returns {type(examples).__name__}",
            hint="yield one dict of arrays an example",
        )
    values: dict[str, list[np.ndarray]] = {}
    for number, example in enumerate(examples):
        if not isinstance(example, Mapping):
            raise DataError(
                f"{function} yields {type(example).__name__}", hint="yield dicts of arrays"
            )
        if number and set(example) != set(values):
            odd = sorted(set(example) ^ set(values))[0]
            raise DataError(
                f"example {number} of {function} and the first do not both have '{odd}'",
                hint="yield the same names each time",
            )
        for name, value in example.items():
            array = np.asarray(value)
            first = values.setdefault(name, [])
            if first and array.shape != first[0].shape:
                raise DataError(
                    f"'{name}' has the shape {list(array.shape)} in example {number} of "
                    f"{function} and {list(first[0].shape)} in the first",
                    hint=f"pad it to one shape and give its length as '{name}:lengths'",
                )
            first.append(array)
    if not values:
        raise DataError(f"{function} yields no examples")
    return {name: np.stack(arrays) for name, arrays in values.items()}
