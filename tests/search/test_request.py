"""What a request refuses before anything is read."""

from __future__ import annotations

from typing import Any

import pytest

import strop
from strop.errors import InputError
from strop.search import Request


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": None}, "data is a NoneType: expected a path or a dict of arrays"),
        ({"data": [1, 2]}, "data is a list"),
        ({"prove": 3}, "prove is a int"),
        ({"metric": len}, "it runs in processes of its own; .* metric='file.py:fn'"),
        ({"engines": "openvino"}, r"engines='openvino' is text; give a list: \['openvino'\]"),
        ({"engines": ["openvin"]}, "there is no engine called 'openvin'"),
    ],
)
def test_what_no_model_could_make_right_is_refused(given: dict[str, Any], message: str) -> None:
    request: dict[str, Any] = {"model": "m.onnx", "data": {}, "within": "1%", "output": "out"}
    with pytest.raises(InputError, match=message):
        Request(**(request | given)).check()


def test_an_option_that_there_is_not_is_named_with_the_one_that_may_be_meant() -> None:
    with pytest.raises(TypeError, match="no option 'butget'; did you mean 'budget'"):
        strop.optimize("m.onnx", {}, within="1%", butget="60s")
