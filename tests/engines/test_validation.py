import numpy as np
import pytest

from strop.engines import validate
from strop.errors import InputError
from strop.records import Signature, TensorSpec


def signature(*shape: int | str | None, dtype: str = "float32") -> Signature:
    return Signature(inputs=(TensorSpec(name="x", dtype=dtype, shape=shape),), outputs=())


@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (1, 3)])
def test_free_dimensions_take_any_length(shape: tuple[int, ...]) -> None:
    validate({"x": np.zeros(shape, np.float32)}, signature("n", 3))
    validate({"x": np.zeros(shape, np.float32)}, signature(None, 3))


def test_an_unknown_rank_takes_any_shape() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=None)
    validate({"x": np.zeros((1, 2, 3), np.float32)}, Signature(inputs=(spec,), outputs=()))


def test_numpy_scalars_of_rank_zero() -> None:
    validate({"x": np.array(3.0, np.float32)}, signature())
    with pytest.raises(InputError, match="float32"):
        validate({"x": np.float32(3)}, signature())


@pytest.mark.parametrize("values", [["a"], np.array(["a", "b"], object)])
def test_strings_may_be_fixed_width_or_objects(values: object) -> None:
    validate({"x": np.asarray(values)}, signature("n", dtype="str"))


def test_numbers_are_no_strings() -> None:
    with pytest.raises(InputError, match="cast it to str"):
        validate({"x": np.zeros(2, np.float32)}, signature("n", dtype="str"))


def test_bytes_in_the_other_order_are_refused() -> None:
    swapped = np.zeros((1, 3), np.dtype(np.float32).newbyteorder())
    with pytest.raises(InputError, match="cast it to float32"):
        validate({"x": swapped}, signature("n", 3))


def test_bfloat16_is_ml_dtypes() -> None:
    import ml_dtypes

    validate({"x": np.zeros((1, 3), ml_dtypes.bfloat16)}, signature("n", 3, dtype="bfloat16"))
    with pytest.raises(InputError, match="bfloat16"):
        validate({"x": np.zeros((1, 3), np.float16)}, signature("n", 3, dtype="bfloat16"))


def test_a_misspelt_name_shows_both_spellings() -> None:
    with pytest.raises(InputError) as caught:
        validate({"X": np.zeros((1, 3), np.float32)}, signature("n", 3))
    assert "input 'x' is missing" in str(caught.value)
    assert "'X'" in str(caught.value)


def test_a_symbol_has_one_length() -> None:
    x = TensorSpec(name="x", dtype="float32", shape=("n", "k"))
    mask = TensorSpec(name="mask", dtype="bool", shape=("n",))
    both = Signature(inputs=(x, mask), outputs=())
    validate({"x": np.zeros((2, 3), np.float32), "mask": np.ones(2, bool)}, both)
    with pytest.raises(InputError, match="'n' is 3 in input 'mask', but 2 in 'x'"):
        validate({"x": np.zeros((2, 3), np.float32), "mask": np.ones(3, bool)}, both)
