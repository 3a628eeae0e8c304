from __future__ import annotations

import numpy as np
import pytest

from strop.errors import ModelError
from strop.models.sample import random_inputs
from strop.records import Signature, TensorSpec


def signature(**inputs: tuple[str, tuple[int | str | None, ...] | None]) -> Signature:
    specs = tuple(TensorSpec(name=n, dtype=d, shape=s) for n, (d, s) in inputs.items())
    return Signature(inputs=specs, outputs=())


def test_a_symbol_has_one_size_everywhere():
    arrays = random_inputs(
        signature(a=("float32", ("N", "len")), b=("int64", ("N", "len", 3))),
        rows=4,
        shapes={"a": [1, 6]},
    )
    assert arrays["a"].shape == (4, 6)
    assert arrays["b"].shape == (4, 6, 3)


def test_types_and_seeds():
    given = signature(f=("float16", (3, 2)), i=("int32", (50,)), b=("bool", (2,)), s=("str", (2,)))
    arrays = random_inputs(given, seed=1)
    assert [a.dtype.name for a in arrays.values()] == ["float16", "int32", "bool", "object"]
    assert set(arrays["i"].tolist()) == {0, 1}
    np.testing.assert_array_equal(random_inputs(given, seed=1)["f"], arrays["f"])
    assert (random_inputs(given, seed=2)["f"] != arrays["f"]).any()


def test_what_cannot_be_made_is_an_error():
    with pytest.raises(ModelError, match="rank of input 'x' is unknown"):
        random_inputs(signature(x=("float32", None)))
    with pytest.raises(ModelError, match="more than 2\\^29 elements"):
        random_inputs(signature(x=("float32", (1, 2**40))))
    with pytest.raises(ModelError, match="bfloat16"):
        random_inputs(signature(x=("bfloat16", (1,))))
