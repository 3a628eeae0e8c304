from __future__ import annotations

import numpy as np
import pytest

from strop import data
from strop.errors import DataError


@pytest.fixture
def write_csv(tmp_path):
    def write(text: str, name: str = "a.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_numeric_columns_side_by_side_are_the_only_input(write_csv, signature):
    path = write_csv("age,target,weight\n40,0,81.5\n 35 ,1,\n")
    dataset = data.read(path, signature(x=("float32", "n", 2)))
    np.testing.assert_array_equal(dataset.inputs()["x"], np.float32([[40, 81.5], [35, np.nan]]))
    assert dataset.targets().tolist() == [0, 1]
    assert dataset.targets().dtype == np.int64


def test_numbered_columns_and_single_ones(write_csv, signature):
    path = write_csv("a.1;b;a.0\n1;2;3\n4;5;6\n".replace(";", "\t"), "a.tsv")
    wanted = signature(a=("int64", "n", 2), b=("float32", "n", 1))
    inputs = data.read(path, wanted).inputs()
    assert inputs["a"].tolist() == [[3, 1], [6, 4]]
    assert inputs["b"].tolist() == [[2.0], [5.0]]


def test_text_groups_and_quotes(write_csv, signature):
    path = write_csv('x,group,slice:site\n1,"a, b",n\n2,c,s\n\n')
    dataset = data.read(path, signature(x=("float32", "n")))
    assert len(dataset) == 2
    assert dataset.slices["site"].tolist() == ["n", "s"]
    assert dataset.has_groups
    # The file is read whole each time, so it crosses to children by way of a scratch file.
    assert not dataset.stored


def test_fractions_are_no_integers(write_csv, signature):
    with pytest.raises(DataError, match=r"'x' is int64\[\?, 1\] but a\.csv holds float64\[2, 1\]"):
        data.read(write_csv("x\n1\n1.5\n"), signature(x=("int64", "n", 1)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n3\n", r"line 3 of a\.csv has 1 fields, the header 2"),
        ("x,x\n1,2\n", "two columns called 'x'"),
        ("x\n", r"a\.csv holds no examples"),
        ("", r"a\.csv holds no examples"),
        ("a,b,c\n1,2,3\n", "input 'x' takes 2 columns of numbers, and a.csv holds 3 .* 'a' to 'c'"),
        ("a,target\n1,2\n", "input 'x' is not there: a.csv holds 'a'; name .* --input x=a"),
        ("a,b\n1,red\n", "of which 'b' holds text; call the column of right answers 'target'"),
    ],
)
def test_broken_tables_are_told(write_csv, signature, text, message):
    with pytest.raises(DataError, match=message):
        data.read(write_csv(text), signature(x=("float32", "n", 2)))
