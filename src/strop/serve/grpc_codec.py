"""Between the gRPC messages and the core's requests and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from strop.serve.codec import Limits, binary_codec
from strop.serve.codec.datatypes import datatype_of_array, dtype_of
from strop.serve.codec.limits import element_count
from strop.serve.errors import BadRequest, TooLarge
from strop.serve.proto import message
from strop.serve.request import InferRequest, InferResponse
from strop.serve.settings import LEVELS

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_IGNORED = frozenset(
    {"sequence_start", "sequence_end", "binary_data_output", "triton_enable_empty_final_response"}
)


def decode_request(
    given: Any, arrived: float, remaining: float | None, limits: Limits
) -> InferRequest:
    """What a ``ModelInferRequest`` asks for.

    Parameters
    ----------
    arrived
        `time.monotonic()` seconds.
    remaining
        Seconds until the call's own deadline; None where it has none.

    Raises
    ------
    BadRequest, TooLarge
        When the tensors are not what their descriptions say, or beyond the limits.
    """
    parameters = {key: _plain(value) for key, value in given.parameters.items()}
    if parameters.pop("sequence_id", 0) not in (0, ""):
        raise BadRequest("sequences are not offered: every request stands for itself")
    priority = min(_natural(parameters.pop("priority", 0), "priority"), LEVELS)
    waits = [] if remaining is None else [remaining]
    if timeout := _natural(parameters.pop("timeout", 0), "timeout"):
        waits.append(timeout / 1e6)
    return InferRequest(
        given.model_name,
        _inputs(given, limits),
        given.model_version,
        _outputs(given, limits),
        given.id,
        priority,
        arrived + min(waits) if waits else None,
        arrived,
        {key: value for key, value in parameters.items() if key not in _IGNORED},
    )


def encode_response(found: InferResponse) -> Any:
    """The ``ModelInferResponse``; its tensors are raw, as Triton's are."""
    response = message("ModelInferResponse")(
        model_name=found.model, model_version=found.version, id=found.id
    )
    for name, array in found.outputs.items():
        response.outputs.add(name=name, datatype=datatype_of_array(array), shape=array.shape)
        response.raw_output_contents.append(bytes(binary_codec.encode_tensor(array)))
    return response


def parameters_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """A map of parameter messages as plain values."""
    return {key: _plain(value) for key, value in given.items()}


def _inputs(given: Any, limits: Limits) -> dict[str, np.ndarray]:
    if not given.inputs:
        raise BadRequest("the request has no inputs")
    if len(given.inputs) > limits.tensors:
        raise TooLarge(f"the request has more than {limits.tensors} inputs")
    raw = given.raw_input_contents
    if raw and len(raw) != len(given.inputs):
        raise BadRequest(f"{len(raw)} raw_input_contents belong to {len(given.inputs)} inputs")
    inputs: dict[str, np.ndarray] = {}
    for number, tensor in enumerate(given.inputs):
        name, datatype = tensor.name, tensor.datatype
        shown = name[:80]
        if not name:
            raise BadRequest("an input has no name")
        if name in inputs:
            raise BadRequest(f"input '{shown}' is given twice")
        if "shared_memory_region" in tensor.parameters:
            raise BadRequest("shared memory is not offered: send the data")
        shape = list(tensor.shape)
        count = element_count(shape, shown, limits, datatype)
        dtype_of(datatype)  # an unknown datatype ends here
        if raw:
            if tensor.HasField("contents"):
                raise BadRequest(f"input '{shown}' has contents beside raw_input_contents")
            data = memoryview(raw[number])
            inputs[name] = binary_codec.decode_tensor(data, datatype, shape, count, shown)
        else:
            inputs[name] = _typed(tensor.contents, datatype, count, shown).reshape(shape)
    return inputs


def _typed(contents: Any, datatype: str, count: int, name: str) -> np.ndarray:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise BadRequest(f"input '{name}' is {datatype}, which only raw_input_contents can hold")
    values = getattr(contents, field)
    if len(values) != count:
        raise BadRequest(f"input '{name}' has {len(values)} {field}, but its shape has {count}")
    if any(len(items) for other, items in contents.ListFields() if other.name != field):
        raise BadRequest(f"input '{name}' is {datatype}: all its contents go into {field}")
    if datatype == "BYTES":
        array = np.empty(count, dtype=object)
        array[:] = list(values)
        return array
    try:
        return np.fromiter(values, dtype_of(datatype), count)  # np.array makes a list of it first
    except OverflowError:
        raise BadRequest(f"input '{name}': its data are not all {datatype} values") from None


def _outputs(given: Any, limits: Limits) -> tuple[str, ...] | None:
    if len(given.outputs) > limits.tensors:
        raise TooLarge(f"the request asks for more than {limits.tensors} outputs")
    names: dict[str, None] = {}
    for output in given.outputs:
        if not output.name:
            raise BadRequest("a requested output has no name")
        if output.name in names:
            raise BadRequest(f"output '{output.name[:80]}' is asked for twice")
        if "shared_memory_region" in output.parameters:
            raise BadRequest("shared memory is not offered: send the data")
        if "classification" in output.parameters and _plain(output.parameters["classification"]):
            raise BadRequest("classification is not offered: ask for the scores")
        names[output.name] = None
    return tuple(names) or None


def _plain(parameter: Any) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def _natural(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise BadRequest(f"'{name}' is not a natural number")
    return value
