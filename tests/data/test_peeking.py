from __future__ import annotations

import numpy as np
import pytest

from strop import data
from strop.errors import DataError


def test_the_first_rows_of_what_may_be_inputs(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    for source in (tmp_path / "a.npz", arrays):
        seen = data.peek(source, 3, renames={"pixels": "x"})
        assert list(seen) == ["pixels"]
        np.testing.assert_array_equal(seen["pixels"], arrays["x"][:3])
    assert len(data.peek(arrays, 100)["x"]) == 20


def test_preprocess_sees_renamed_arrays(arrays, write_py):
    path = write_py("prep.py", "def flip(batch): return {'z': -batch['pixels']}\n")
    seen = data.peek(arrays, 2, renames={"pixels": "x"}, preprocess=f"{path}:flip", trust=True)
    np.testing.assert_array_equal(seen["z"], -arrays["x"][:2])
    with pytest.raises(DataError, match=r"preprocess prep\.py:flip raises KeyError: 'pixels'"):
        data.peek(arrays, 2, preprocess=f"{path}:flip", trust=True)


def test_targets_alone_are_no_inputs():
    with pytest.raises(DataError, match="no array that could be an input"):
        data.peek({"target": np.arange(3)}, 2)
