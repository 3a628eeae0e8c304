"""Requests of the Open Inference Protocol as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

_DATATYPES = {"float32": "FP32", "int64": "INT64", "int32": "INT32", "uint8": "UINT8"}


def post(path: str, body: bytes, header: str = "") -> bytes:
    """A POST with keep-alive, as HTTP/1.1 has it."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{header}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def as_json(path: str, arrays: Mapping[str, np.ndarray], **more: object) -> bytes:
    """Tensors as lists of numbers."""
    inputs = [{**_about(name, it), "data": it.ravel().tolist()} for name, it in arrays.items()]
    document = {**more, "inputs": inputs}
    return post(path, json.dumps(document).encode(), "Content-Type: application/json\r\n")


def as_binary(path: str, arrays: Mapping[str, np.ndarray], **more: object) -> bytes:
    """Tensors as bytes behind the JSON, and the answer's too."""
    inputs = [
        {**_about(name, it), "parameters": {"binary_data_size": it.nbytes}}
        for name, it in arrays.items()
    ]
    document = {**more, "inputs": inputs, "parameters": {"binary_data_output": True}}
    text = json.dumps(document).encode()
    body = b"".join([text, *(it.tobytes() for it in arrays.values())])
    return post(path, body, f"Inference-Header-Content-Length: {len(text)}\r\n")


def _about(name: str, array: np.ndarray) -> dict[str, object]:
    return {"name": name, "datatype": _DATATYPES[array.dtype.name], "shape": array.shape}


def body_of(request: bytes) -> bytes:
    """The body of a request made here."""
    return request.partition(b"\r\n\r\n")[2]
