from __future__ import annotations

import numpy as np
import pytest

from strop import data
from strop.errors import DataError, TrustError

CODE = """
import numpy as np
def rows():
    for i in range(5):
        yield {"x": np.full(3, i, np.float32), "target": i % 2}
def whole():
    return {"x": np.ones((4, 3), np.float32)}
def ragged():
    yield {"x": np.zeros(3)}
    yield {"x": np.zeros(4)}
def forgets():
    yield {"x": np.zeros(3), "target": 1}
    yield {"x": np.zeros(3)}
def raises():
    yield {"x": np.zeros(3)}
    raise OSError("disk gone")
def tuples():
    yield (1, 2)
def nothing():
    return None
def empty():
    yield from ()
"""


@pytest.fixture
def path(write_py):
    return write_py("make.py", CODE)


def test_examples_are_stacked(path, signature):
    dataset = data.read(f"{path}:rows", signature(x=("float32", "n", 3)), trust=True)
    np.testing.assert_array_equal(dataset.inputs()["x"][:, 0], np.arange(5))
    assert dataset.targets().tolist() == [0, 1, 0, 1, 0]
    assert not dataset.stored  # it would run again in every child


def test_whole_arrays_are_taken_as_they_are(path, signature):
    assert len(data.read(f"{path}:whole", signature(x=("float32", "n", 3)), trust=True)) == 4


def test_it_needs_trust(path, signature):
    with pytest.raises(TrustError):
        data.read(f"{path}:rows", signature(x=("float32", "n", 3)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ragged", r"'x' has the shape \[4\] in example 1 of make\.py:ragged and \[3\]"),
        ("forgets", r"example 1 of make\.py:forgets and the first do not both have 'target'"),
        ("raises", r"make\.py:raises raises OSError: disk gone"),
        ("tuples", r"make\.py:tuples yields tuple; yield dicts"),
        ("nothing", r"make\.py:nothing returns NoneType; yield one dict"),
        ("empty", r"make\.py:empty yields no examples"),
    ],
)
def test_what_it_does_wrong_is_told(path, signature, name, message):
    with pytest.raises(DataError, match=message):
        data.read(f"{path}:{name}", signature(x=("float32", "n", 3)), trust=True)
