"""The gRPC front on the wire: what tritonclient does not send, and what goes wrong."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from strop.errors import InputError
from strop.serve import grpc_front
from strop.serve.codec import Limits
from strop.serve.config import ServerConfig
from strop.serve.core import Core
from strop.serve.grpc_calls import UNFORESEEN
from strop.serve.grpc_front import GrpcFront
from strop.serve.proto import message
from strop.serve.settings import ModelSettings

from . import fakes, serving
from .rpc import Client, Code, X, counting, outcome, output, put_behind, raw, run, typed
from .waiting import END, until


def test_raw_and_typed_contents(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        found = await client.call("ModelInfer", raw(id="mine"))
        np.testing.assert_array_equal(output(found), 2 * X)
        assert (found.id, found.model_name, found.model_version) == ("mine", "affine", "1")
        found = await client.call("ModelInfer", typed(fp32_contents=[1, 2, 3, 4.5]))
        np.testing.assert_array_equal(output(found), [[2, 4, 6, 9]])

    run(tmp_path, body)


def test_what_is_wrong_with_a_request_is_said(tmp_path: Path) -> None:
    def changed(change: Callable[[Any], Any]) -> Any:
        request = raw()
        change(request)
        return request

    wrong: list[tuple[Any, Code, str]] = [
        (typed(fp32_contents=[1, 2]), Code.INVALID_ARGUMENT, "2 fp32_contents"),
        (typed(fp64_contents=[1, 2, 3, 4]), Code.INVALID_ARGUMENT, "0 fp32_contents"),
        (
            typed(fp32_contents=[1, 2, 3, 4], int_contents=[1]),
            Code.INVALID_ARGUMENT,
            "all its contents",
        ),
        (raw(X[:, :2].copy()), Code.INVALID_ARGUMENT, "float32"),
        (raw(X.astype(np.float64), "FP64"), Code.INVALID_ARGUMENT, "float64"),
        (raw(X, "FP99"), Code.INVALID_ARGUMENT, "no datatype 'FP99'"),
        (changed(lambda it: it.raw_input_contents.append(b"")), Code.INVALID_ARGUMENT, "belong"),
        (changed(lambda it: it.ClearField("inputs")), Code.INVALID_ARGUMENT, "no inputs"),
        (changed(lambda it: it.inputs[0].shape.append(-1)), Code.INVALID_ARGUMENT, "natural"),
        (
            changed(lambda it: it.inputs[0].shape.extend([2**62, 2**62])),
            Code.RESOURCE_EXHAUSTED,
            "elements",
        ),
        (changed(lambda it: it.inputs[0].shape.append(7)), Code.INVALID_ARGUMENT, "bytes"),
        (changed(lambda it: it.outputs.add(name="z")), Code.INVALID_ARGUMENT, "'z'"),
        (
            changed(lambda it: it.parameters["sequence_id"].CopyFrom(_param(int64_param=3))),
            Code.INVALID_ARGUMENT,
            "sequences",
        ),
        (
            changed(lambda it: it.parameters["timeout"].CopyFrom(_param(string_param="5"))),
            Code.INVALID_ARGUMENT,
            "'timeout'",
        ),
        (
            changed(
                lambda it: (
                    it.inputs[0]
                    .parameters["shared_memory_region"]
                    .CopyFrom(_param(string_param="r"))
                )
            ),
            Code.INVALID_ARGUMENT,
            "shared memory",
        ),
        (changed(lambda it: setattr(it, "model_name", "absent")), Code.NOT_FOUND, "absent"),
        (changed(lambda it: setattr(it, "model_name", "../x")), Code.NOT_FOUND, "no model"),
        (changed(lambda it: setattr(it, "model_version", "9")), Code.NOT_FOUND, "version '9'"),
        (b"\xff\xff\xff", Code.INVALID_ARGUMENT, "no ModelInferRequest"),
    ]

    async def body(client: Client, core: Core) -> None:
        for request, code, words in wrong:
            error = await client.refused("ModelInfer", request)
            assert error.code() == code, (error, words)
            assert words in (error.details() or ""), words
            assert str(tmp_path) not in (error.details() or "")
        # None of it has done any harm.
        np.testing.assert_array_equal(output(await client.call("ModelInfer", raw())), 2 * X)

    run(tmp_path, body)


def _param(**value: Any) -> Any:
    return message("InferParameter")(**value)


@pytest.mark.parametrize(
    ("datatype", "field", "bad"),
    [
        ("INT8", "int_contents", 128),
        ("UINT8", "uint_contents", 256),
        ("INT16", "int_contents", -(2**15) - 1),
    ],
)
def test_integers_that_do_not_fit_are_refused(datatype: str, field: str, bad: int) -> None:
    from strop.serve.errors import BadRequest
    from strop.serve.grpc_codec import decode_request

    request = message("ModelInferRequest")(model_name="m")
    request.inputs.add(name="x", datatype=datatype, shape=[2], contents={field: [1, bad]})
    with pytest.raises(BadRequest, match=datatype):
        decode_request(request, 0.0, None, Limits())


@pytest.mark.parametrize("datatype", ["BOOL", "UINT64", "INT64", "FP64", "BYTES"])
def test_other_contents_decode(datatype: str) -> None:
    from strop.serve.grpc_codec import decode_request

    field, values = {
        "BOOL": ("bool_contents", [True, False]),
        "UINT64": ("uint64_contents", [0, 2**64 - 1]),
        "INT64": ("int64_contents", [-(2**63), 1]),
        "FP64": ("fp64_contents", [0.1, float("nan")]),
        "BYTES": ("bytes_contents", [b"", b"\xff"]),
    }[datatype]
    request = message("ModelInferRequest")(model_name="m")
    request.inputs.add(name="x", datatype=datatype, shape=[2], contents={field: values})
    np.testing.assert_array_equal(decode_request(request, 0.0, None, Limits()).inputs["x"], values)


def test_what_is_read_by_the_element_is_bounded_before_it_is_read() -> None:
    """And what is raw is not: it is copied whole, whatever its size."""
    from strop.serve.errors import BadRequest, TooLarge
    from strop.serve.grpc_calls import parsed

    kind = message("ModelInferRequest")
    request = kind(model_name="m", id="mine")
    request.inputs.add(name="x", datatype="INT64", shape=[500])
    beside = request.ByteSize()
    request.raw_input_contents.append(bytes(4000))
    wire = request.SerializeToString()
    assert parsed(kind, wire, beside + 3) == request  # a tag and a length of two bytes
    with pytest.raises(TooLarge, match="raw_input_contents"):
        parsed(kind, wire, beside + 2)
    request.inputs[0].contents.int64_contents.extend([1] * 500)
    del request.raw_input_contents[:]
    wire = request.SerializeToString()
    assert parsed(kind, wire, len(wire)) == request
    with pytest.raises(TooLarge, match="raw_input_contents"):
        parsed(kind, wire, len(wire) - 1)
    # Kinds of field that the message has not are counted as well, and damage is not passed over.
    for strange in (b"\xf8\x01\x05", b"\xf9\x01" + bytes(8), b"\xfd\x01" + bytes(4)):
        with pytest.raises(TooLarge):
            parsed(kind, strange + wire, len(wire))
    for damage in (b"\xfb\x01", b"\x3a\xff\xff", b"\xff" * 11, b"\x10\x01" * 4097):
        with pytest.raises((BadRequest, TooLarge)):
            parsed(kind, damage, 1)


def test_large_typed_contents_are_refused_with_the_way_out(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        request = typed(fp32_contents=[1.0] * (Limits().json // 4 + 1))
        error = await client.refused("ModelInfer", request)
        assert error.code() == Code.RESOURCE_EXHAUSTED
        assert "raw_input_contents" in str(error.details())
        assert output(await client.call("ModelInfer", raw())).shape == X.shape

    run(tmp_path, body)


def test_a_deadline_is_the_earlier_of_the_calls_and_the_parameters() -> None:
    from strop.serve.grpc_codec import decode_request

    request = raw()
    assert decode_request(request, 100.0, None, Limits()).deadline is None
    assert decode_request(request, 100.0, 2.0, Limits()).deadline == 102.0
    request.parameters["timeout"].int64_param = 500_000
    assert decode_request(request, 100.0, 2.0, Limits()).deadline == 100.5
    assert decode_request(request, 100.0, 0.25, Limits()).deadline == 100.25


def test_clients_cannot_make_levels_of_priority_at_will() -> None:
    from strop.serve.grpc_codec import decode_request

    request = raw()
    request.parameters["priority"].int64_param = 1_790_000_000
    assert decode_request(request, 100.0, None, Limits()).priority == 256


def test_cancelling_and_deadlines_take_requests_back(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        session = fakes.Doubling()
        session.gate.clear()
        batcher = put_behind(core, session)
        # One runs, and one is at hand for when it is done.
        running = [asyncio.ensure_future(outcome(client)) for _ in range(2)]
        await until(lambda: session.batches == [1] and batcher.running_rows == 2)
        waiting = client.call("ModelInfer", raw(X[:1]))
        await until(lambda: batcher.queued == 1)
        waiting.cancel()
        await until(lambda: batcher.queued == 0)
        assert batcher.model.statistics.cancelled == 1
        error = await client.refused("ModelInfer", raw(X[:1]), timeout=0.2)
        assert error.code() == Code.DEADLINE_EXCEEDED
        await until(lambda: batcher.queued == 0)
        session.gate.set()
        for call in running:
            np.testing.assert_array_equal(output(await call), 2 * X[:1])
        await client.call("ModelInfer", raw(X[:1]))
        assert session.batches == [1, 1, 1]  # what was taken back was never computed

    run(tmp_path, body)


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        session = fakes.Doubling()
        session.gate.clear()
        batcher = put_behind(core, session, max_queue=1)
        taken = []
        for reached in (
            lambda: session.batches == [1],  # one runs
            lambda: batcher.running_rows == 2,  # one is at hand
            lambda: batcher.queued == 1,  # one waits
        ):
            taken.append(asyncio.ensure_future(outcome(client)))
            await until(reached)
        for _ in range(2):
            error = await client.refused("ModelInfer", raw(X[:1]))
            assert error.code() == Code.UNAVAILABLE
            trailing = dict(error.trailing_metadata())
            assert int(trailing["retry-after"]) >= 1
            assert int(trailing["retry-after-ms"]) >= 1
        session.gate.set()
        for call in taken:
            np.testing.assert_array_equal(output(await call), 2 * X[:1])

    run(tmp_path, body)


def test_a_stream_answers_in_order_and_survives_errors(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        async def requests() -> Any:
            for number in range(200):
                array = np.full((1 + number % 3, 4), number, np.float32)
                if number % 50 == 7:
                    array = array[:, :2].copy()
                yield raw(array, id=str(number))

        seen = 0
        async for response in client.stream(requests()):
            found = response.infer_response
            assert found.id == str(seen)
            if seen % 50 == 7:
                assert "float32" in response.error_message
            else:
                assert not response.error_message
                assert (output(found) == 2 * seen).all()
            seen += 1
        assert seen == 200

    run(tmp_path, body)


def test_a_stream_does_not_read_without_a_bound(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        session = fakes.Doubling()
        session.gate.clear()
        batcher = put_behind(core, session)

        async def requests() -> Any:
            for _ in range(300):
                yield raw(X[:1])

        call = client.stream(requests())
        await until(lambda: batcher.running_rows + batcher.queued == 8)
        for _ in range(20):  # rounds in which it would go on reading
            await client.call("ServerLive")
        assert batcher.running_rows + batcher.queued == 8
        call.cancel()
        await until(lambda: batcher.queued == 0)
        session.gate.set()

    run(tmp_path, body, limits=Limits(pipelined=8))


def test_what_nobody_foresaw_in_a_stream_is_for_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("in /secret/path")

    async def body(client: Client, core: Core) -> None:
        async def requests() -> Any:
            yield raw(X[:1])

        monkeypatch.setattr(grpc_front, "parsed", broken)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in client.stream(requests()):
                pass
        assert caught.value.code() == Code.INTERNAL
        assert caught.value.details() == UNFORESEEN

    run(tmp_path, body)
    assert "in /secret/path" in caplog.text


def test_what_is_refused_before_it_reaches_a_model_is_counted(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        await client.refused("ModelInfer", raw(datatype="NONE"))
        assert core.refused == {"invalid": 1}

    run(tmp_path, body)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_messages_are_compressed_both_ways_where_the_client_asks(
    tmp_path: Path, coding: str
) -> None:
    array = np.zeros((32, 4), np.float32)
    packed = grpc.Compression.Gzip if coding == "gzip" else grpc.Compression.Deflate
    asking = {"metadata": (("accept-encoding", f"br, {coding}"),), "compression": packed}

    async def sent(client: Client, sizes: list[int], **options: Any) -> tuple[int, int]:
        """Bytes on the wire of a unary answer, and of a stream of ten."""
        sizes.clear()
        found = await client.call("ModelInfer", raw(array), **options)
        np.testing.assert_array_equal(output(found), array)
        unary = sum(sizes)
        sizes.clear()
        async for response in client.stream(iter([raw(array)] * 10), **options):
            np.testing.assert_array_equal(output(response.infer_response), array)
        return unary, sum(sizes)

    async def body(client: Client, core: Core) -> None:
        async with counting(client) as (own, sizes):
            await own.call("ServerLive")
            plain, packed = await sent(own, sizes), await sent(own, sizes, **asking)
            assert plain[0] > array.nbytes > packed[0] + 200
            assert plain[1] > 10 * array.nbytes > packed[1] + 2000
            error = await own.refused("ModelInfer", raw(array[:, :2].copy()), **asking)
            assert error.code() == Code.INVALID_ARGUMENT

    run(tmp_path, body)


def test_messages_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    big = np.zeros((1 << 16, 4), np.float32)
    assert len(gzip.compress(big.tobytes())) < 5000

    async def body(client: Client, core: Core) -> None:
        error = await client.refused("ModelInfer", raw(big))
        assert error.code() == Code.RESOURCE_EXHAUSTED
        # A decompression bomb is as large as what comes out of it.
        bomb = await client.refused("ModelInfer", raw(big), compression=grpc.Compression.Gzip)
        assert bomb.code() == Code.RESOURCE_EXHAUSTED
        assert core.repository.model("affine").statistics.executions <= 1
        np.testing.assert_array_equal(output(await client.call("ModelInfer", raw())), 2 * X)

    run(tmp_path, body, limits=Limits(body=100_000))


def test_bytes_in_flight_are_bounded(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        session = fakes.Doubling()
        session.gate.clear()
        put_behind(core, session)
        calls = [asyncio.ensure_future(outcome(client)) for _ in range(20)]
        await until(lambda: any(call.done() for call in calls))
        refused = next(call.result() for call in calls if call.done())
        assert refused.code() == Code.UNAVAILABLE and "together" in refused.details()
        session.gate.set()
        await asyncio.gather(*calls)

    run(tmp_path, body, limits=Limits(in_flight=200))


def test_tokens(tmp_path: Path) -> None:
    (tmp_path / "infer").write_text("token-of-a-client\n")
    (tmp_path / "admin").write_text("token-of-an-admin\n")

    def bearer(token: str) -> dict[str, Any]:
        return {"metadata": (("authorization", f"Bearer {token}"),)}

    load = message("RepositoryModelLoadRequest")(model_name="affine")

    async def body(client: Client, core: Core) -> None:
        assert (await client.call("ServerLive")).live
        error = await client.refused("ModelInfer", raw())
        assert error.code() == Code.UNAUTHENTICATED
        assert (await client.refused("ModelInfer", raw(), **bearer("guess"))).code() == error.code()
        await client.call("ModelInfer", raw(), **bearer("token-of-a-client"))
        error = await client.refused("RepositoryModelLoad", load, **bearer("token-of-a-client"))
        assert error.code() == Code.UNAUTHENTICATED
        await client.call("RepositoryModelLoad", load, **bearer("token-of-an-admin"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in client.stream(iter([raw()])):
                pass
        assert caught.value.code() == Code.UNAUTHENTICATED

    run(tmp_path, body, infer_token_file=tmp_path / "infer", token_file=tmp_path / "admin")


def test_admin_calls_are_off_without_a_token(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        for verb in ("Load", "Unload"):
            request = message(f"RepositoryModel{verb}Request")(model_name="affine")
            error = await client.refused(f"RepositoryModel{verb}", request)
            assert error.code() == Code.PERMISSION_DENIED
        assert core.repository.ready("affine")

    run(tmp_path, body)


def test_tls(tmp_path: Path) -> None:
    cert, key = serving.certificate(tmp_path)

    async def body(client: Client, core: Core) -> None:
        np.testing.assert_array_equal(output(await client.call("ModelInfer", raw())), 2 * X)

    credentials = grpc.ssl_channel_credentials(cert.read_bytes())
    run(tmp_path, body, credentials=credentials, tls_cert=cert, tls_key=key)


def test_a_port_that_is_taken_is_bad_input(tmp_path: Path) -> None:
    async def main() -> None:
        settings = ModelSettings(path=tmp_path)
        core = Core()
        first, second = (GrpcFront(core, ServerConfig(models={"m": settings})) for _ in range(2))
        port = await first.start("127.0.0.1", 0)
        with pytest.raises(InputError, match=str(port)):
            await second.start("127.0.0.1", port)
        await second.stop(0)
        await first.stop(0)
        await core.drain(0.1)

    asyncio.run(main())


def test_while_draining_new_calls_are_refused_and_open_ones_answered(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        session = fakes.Doubling()
        session.gate.clear()
        put_behind(core, session)
        running = asyncio.ensure_future(outcome(client))
        await until(lambda: session.batches == [1])
        draining = asyncio.ensure_future(core.drain(END))
        await until(lambda: not core.ready())
        assert not (await client.call("ServerReady")).ready
        assert (await client.refused("ModelInfer", raw())).code() == Code.UNAVAILABLE
        session.gate.set()
        np.testing.assert_array_equal(output(await running), 2 * X[:1])
        assert await draining

    run(tmp_path, body)


def test_an_idle_stream_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        core = Core()
        settings = ModelSettings(path=fakes.scaling(tmp_path / "affine.onnx"), threads=1)
        await core.repository.load("affine", settings)
        front = GrpcFront(core, ServerConfig(models={"affine": settings}))
        client = Client(f"localhost:{await front.start('127.0.0.1', 0)}")
        silence = asyncio.Event()

        async def requests() -> Any:
            yield raw()
            await silence.wait()

        call = client.stream(requests())
        assert not (await call.read()).error_message
        await core.drain(1.0)
        await front.stop(END)
        # Had it been cut off at the end of the grace, this would be UNAVAILABLE.
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == Code.OK
        silence.set()
        await client.channel.close()

    asyncio.run(main())


def test_the_descriptor_is_that_of_the_proto() -> None:
    from strop.serve.proto import generate

    pytest.importorskip("grpc_tools")
    assert (generate.HERE / "descriptor.py").read_text(encoding="utf-8") == generate.generated()


def test_field_numbers_are_those_of_the_public_protocol() -> None:
    """Beside tritonclient's own messages, in one process: the pools are apart."""
    from google.protobuf import descriptor_pool

    pytest.importorskip("tritonclient.grpc")
    pool: Any = descriptor_pool.Default()
    checked = 0
    for name in message("ModelInferRequest").DESCRIPTOR.file.message_types_by_name:
        ours = message(name).DESCRIPTOR
        theirs = pool.FindMessageTypeByName(f"inference.{name}")
        assert theirs is not ours
        for field in _fields(ours):
            assert field in _fields(theirs), (name, field)
            checked += 1
    assert checked > 100


def _fields(descriptor: Any, prefix: str = "") -> set[tuple[Any, ...]]:
    found = set()
    for field in descriptor.fields:
        found.add((prefix + field.name, field.number, field.type, field.is_repeated))
    for nested in descriptor.nested_types:
        found |= _fields(nested, f"{prefix}{nested.name}.")
    return found
