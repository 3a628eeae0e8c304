"""Whatever a client sends over gRPC, it gets a status of its own fault, and the server goes on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.serve.codec import Limits
from strop.serve.codec.datatypes import ITEMSIZE
from strop.serve.config import ServerConfig
from strop.serve.core import Core
from strop.serve.grpc_front import GrpcFront
from strop.serve.proto import HEALTH, SERVICE, message
from strop.serve.settings import ModelSettings

from . import serving
from .rpc import Code, X, output, raw
from .waiting import END, wait_until

LIMITS = Limits(body=1 << 20, elements=1 << 20, in_flight=1 << 21)
FAULTS = {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED}
"""What may be said of a request; `DEADLINE_EXCEEDED` where it names a timeout itself."""


@dataclass
class Served:
    """A front on a loop in a thread, and a channel to it."""

    front: GrpcFront
    channel: grpc.Channel
    folder: Path

    def send(self, data: bytes, method: str = f"/{SERVICE}/ModelInfer") -> bytes | grpc.Call:
        """The answer's bytes, or the error, which was looked at."""
        try:
            answer: bytes = self.channel.unary_unary(method)(data, timeout=END)
        except grpc.RpcError as error:
            self.check(error)
            return error
        return answer

    def check(self, error: grpc.RpcError) -> None:
        assert error.code() in FAULTS, (error.code(), error.details())
        said = error.details()
        assert said and said.isprintable() and len(said) <= 500
        for word in (str(self.folder), "Traceback", "Exception", "Error", ".py", "0x", "object at"):
            assert word not in said, said

    def works(self) -> None:
        answer = self.send(raw().SerializeToString())
        assert isinstance(answer, bytes)
        np.testing.assert_array_equal(
            output(message("ModelInferResponse").FromString(answer)), 2 * X
        )
        wait_until(lambda: self.front.in_flight == 0)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models")
    models = {
        "affine": serving.affine(folder / "affine.onnx"),
        "text": serving.text(folder / "text.onnx"),
        "two": serving.two_of_each(folder / "two.onnx"),
    }
    chosen = {name: ModelSettings(path=path, threads=1) for name, path in models.items()}
    up: list[tuple[GrpcFront, int]] = []
    started = threading.Event()
    loop = asyncio.new_event_loop()
    end = asyncio.Event()

    async def main() -> None:
        core = Core()
        for name, it in chosen.items():
            await core.repository.load(name, it)
        front = GrpcFront(core, ServerConfig(models=chosen, limits=LIMITS))
        up.append((front, await front.start("127.0.0.1", 0)))
        started.set()
        await end.wait()
        await core.drain(1.0)
        await front.stop(0.0)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    assert started.wait(END)
    (front, port) = up[0]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Served(front, channel, folder)
    loop.call_soon_threadsafe(end.set)
    thread.join(END)
    loop.close()


names = st.sampled_from(
    [
        *("affine", "text", "two", "absent", "", ".", "..", "../affine", "/etc/passwd", "%00"),
        *("\0", "affine\0", "affine/1", "stats", "a" * 2000, "ü", "\r\n", "\ud7ff", "{}", "%s%n"),
    ]
) | st.text(max_size=5)
tensor_names = st.sampled_from(["x", "s", "a", "b", "y", "", "x" * 3000, "\0", "../x", "\n"])
numbers = st.sampled_from([0, 1, 2, 4, 16, -1, 3, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63)])
floats = st.floats(width=32) | st.sampled_from([float("nan"), float("inf"), -0.0])
parameters = st.tuples(
    st.sampled_from(
        [
            *("timeout", "priority", "sequence_id", "sequence_start", "shared_memory_region"),
            *("classification", "binary_data_size", "triton_enable_empty_final_response", "", "\0"),
        ]
    ),
    st.one_of(
        st.fixed_dictionaries({"bool_param": st.booleans()}),
        st.fixed_dictionaries({"int64_param": numbers}),
        st.fixed_dictionaries({"uint64_param": st.sampled_from([0, 1, 2**64 - 1])}),
        st.fixed_dictionaries({"string_param": names}),
        st.fixed_dictionaries({"double_param": st.floats()}),
        st.just({}),
    ),
)
contents = st.fixed_dictionaries(
    {},
    optional={
        "bool_contents": st.lists(st.booleans(), max_size=5),
        "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=16),
        "int64_contents": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
        "uint_contents": st.lists(st.integers(0, 2**32 - 1), max_size=5),
        "uint64_contents": st.lists(st.integers(0, 2**64 - 1), max_size=5),
        "fp32_contents": st.lists(floats, max_size=8),
        "fp64_contents": st.lists(st.floats(), max_size=5),
        "bytes_contents": st.lists(st.binary(max_size=5), max_size=5),
    },
)


@st.composite
def requests(draw: st.DrawFn) -> Any:
    """A request that is right, but for some changes."""
    model, tensors, datatype, width = draw(
        st.sampled_from(
            [("affine", "x", "FP32", 4), ("text", "s", "BYTES", 2), ("two", "ab", "INT32", 16)]
        )
    )
    rows = draw(st.integers(1, 3))
    typed = draw(st.booleans())
    request = message("ModelInferRequest")(model_name=model)
    for name in tensors:
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[rows, width])
        count = rows * width
        if not typed:
            size = 4 * count  # of strings, too, which are empty ones
            noise = bytes(size) if datatype == "BYTES" else draw(st.binary(min_size=4, max_size=4))
            request.raw_input_contents.append((noise * size)[:size])
        elif datatype == "FP32":
            tensor.contents.fp32_contents.extend(draw(floats) for _ in range(count))
        elif datatype == "INT32":
            tensor.contents.int_contents.extend([draw(st.integers(-(2**31), 2**31 - 1))] * count)
        else:
            tensor.contents.bytes_contents.extend([draw(st.binary(max_size=3))] * count)
    for what in draw(st.lists(st.sampled_from(CHANGES), max_size=4)):
        _change(draw, request, what)
    return request


CHANGES = [
    *("model", "version", "id", "parameter", "output", "output-parameter", "more-inputs"),
    *(
        "no-inputs",
        "name",
        "datatype",
        "shape",
        "dim",
        "contents",
        "no-contents",
        "tensor-parameter",
    ),
    *("more-raw", "less-raw", "no-raw", "lying-raw"),
]


def _change(draw: st.DrawFn, request: Any, what: str) -> None:
    raws = request.raw_input_contents
    if what == "model":
        request.model_name = draw(names)
    elif what == "version":
        request.model_version = draw(st.sampled_from(["1", "2", "-1", "../1", "%00", "1\0"]))
    elif what == "id":
        request.id = draw(st.sampled_from(["7", "\0", "i" * 5000]))
    elif what == "parameter":
        _put(request.parameters, draw(parameters))
    elif what in ("output", "output-parameter"):
        asked = request.outputs.add(name=draw(tensor_names))
        if what == "output-parameter":
            _put(asked.parameters, draw(parameters))
    elif what == "more-inputs":
        request.inputs.add(name=draw(tensor_names), datatype="FP32", shape=[1])
    elif what == "more-raw":
        raws.extend(draw(st.lists(st.binary(max_size=20), min_size=1, max_size=3)))
    elif what == "no-raw":
        del raws[:]
    elif what == "less-raw":
        del raws[-1:]
    elif what == "lying-raw" and raws:
        raws[0] = draw(
            st.sampled_from([raws[0][:-1], raws[0] + b"\0", b"", b"\xff" * len(raws[0])])
        )
    elif what == "no-inputs":
        del request.inputs[:]
    elif request.inputs:
        tensor = draw(st.sampled_from(request.inputs))
        if what == "name":
            tensor.name = draw(tensor_names)
        elif what == "datatype":
            tensor.datatype = draw(
                st.sampled_from([*ITEMSIZE, "BYTES", "FP99", "", "fp32", "\0", "F" * 2000])
            )
        elif what == "shape":
            tensor.shape[:] = draw(st.lists(numbers, max_size=5))
        elif what == "dim" and tensor.shape:
            tensor.shape[draw(st.integers(0, len(tensor.shape) - 1))] = draw(numbers)
        elif what == "contents":
            tensor.contents.CopyFrom(message("InferTensorContents")(**draw(contents)))
        elif what == "no-contents":
            tensor.ClearField("contents")
        elif what == "tensor-parameter":
            _put(tensor.parameters, draw(parameters))


def _put(into: Any, parameter: tuple[str, dict[str, Any]]) -> None:
    into[parameter[0]].CopyFrom(message("InferParameter")(**parameter[1]))


@settings(max_examples=300, deadline=None)
@given(request=requests())
def test_requests_with_something_wrong(served: Served, request: Any) -> None:
    answer = served.send(request.SerializeToString())
    if isinstance(answer, bytes):
        found = message("ModelInferResponse").FromString(answer)
        assert found.model_name == request.model_name and found.id == request.id
        assert len(found.outputs) == len(found.raw_output_contents)
        for described, data in zip(found.outputs, found.raw_output_contents, strict=True):
            if described.datatype != "BYTES":
                assert len(data) == np.prod(described.shape) * ITEMSIZE[described.datatype]


@settings(max_examples=200, deadline=None)
@given(
    request=requests(),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4
    ),
)
def test_messages_with_bytes_changed(
    served: Served, request: Any, edits: list[tuple[float, int, bytes]]
) -> None:
    data = request.SerializeToString()
    for where, gone, come in edits:
        start = int(where * len(data))
        data = data[:start] + come + data[start + gone :]
    served.send(data)


@settings(max_examples=100, deadline=None)
@given(
    data=st.binary(max_size=300),
    method=st.sampled_from(
        ["ServerLive", "ModelReady", "ModelInfer", "ModelStatistics", "RepositoryIndex"]
    ),
)
def test_bytes_that_are_no_message(served: Served, data: bytes, method: str) -> None:
    served.send(data, f"/{SERVICE}/{method}")


@settings(max_examples=60, deadline=None)
@given(
    name=names,
    version=st.sampled_from(["", "1", "../1", "\0", "9" * 5000]),
    method=st.sampled_from(["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"]),
)
def test_names_that_are_none(served: Served, name: str, version: str, method: str) -> None:
    request = message(f"{method}Request")(name=name, version=version)
    served.send(request.SerializeToString(), f"/{SERVICE}/{method}")


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=50))
def test_health_checks_of_anything(served: Served, data: bytes) -> None:
    served.send(data, f"/{HEALTH}/Check")


@settings(max_examples=60, deadline=None)
@given(
    messages=st.lists(
        requests().map(lambda it: it.SerializeToString()) | st.binary(max_size=40), max_size=6
    ),
    read=st.integers(0, 6),
    coding=st.sampled_from([None, grpc.Compression.Gzip, grpc.Compression.Deflate]),
)
def test_streams_of_anything_cancelled_anywhere(
    served: Served, messages: list[bytes], read: int, coding: Any
) -> None:
    """Each message gets an answer of its own until one is none at all, which ends the stream."""
    stream = served.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    call = stream(iter(messages), timeout=END, compression=coding)
    seen = 0
    try:
        for answer in call:
            found = message("ModelStreamInferResponse").FromString(answer)
            assert found.error_message.isprintable() and len(found.error_message) <= 500
            assert str(served.folder) not in found.error_message
            seen += 1
            if seen == read:
                call.cancel()
    except grpc.RpcError as error:
        if error.code() != Code.CANCELLED or seen != read:
            served.check(error)
    else:
        assert seen == len(messages)


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_messages_over_the_limit_in_calls_and_streams(served: Served, compression: Any) -> None:
    large = raw(np.zeros((1 << 17, 4), np.float32)).SerializeToString()
    good = raw().SerializeToString()
    unary = served.channel.unary_unary(f"/{SERVICE}/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        unary(large, timeout=END, compression=compression)
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    stream = served.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    with pytest.raises(grpc.RpcError) as caught:
        for _ in stream(iter([good, large, good]), timeout=END, compression=compression):
            pass
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    served.works()


def test_what_is_not_there_says_so(served: Served) -> None:
    for method in (f"/{SERVICE}/ModelInfer/x", f"/{SERVICE}/Nothing", "/a/b", "/../etc/passwd"):
        with pytest.raises(grpc.RpcError) as caught:
            served.channel.unary_unary(method)(b"", timeout=END)
        assert caught.value.code() == Code.UNIMPLEMENTED


def test_calls_given_up_midway_leave_nothing_behind(served: Served) -> None:
    data = raw(np.zeros((32, 4), np.float32)).SerializeToString()
    unary = served.channel.unary_unary(f"/{SERVICE}/ModelInfer")
    stream = served.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    for number in range(40):
        unary.future(data).cancel()
        call = stream(iter([data] * 50))
        with contextlib.suppress(grpc.RpcError):
            for seen, _ in enumerate(call):
                if seen == number % 5:
                    call.cancel()
    served.works()


def test_after_all_of_it_the_server_serves(served: Served) -> None:
    served.works()
