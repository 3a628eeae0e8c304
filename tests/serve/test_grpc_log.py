"""What the log has of gRPC calls, and the ids that clients get back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from strop.serve import grpc_front
from strop.serve.core import Core
from strop.serve.grpc_calls import UNFORESEEN
from strop.serve.logs import Log
from strop.serve.proto import SERVICE, message

from .rpc import Client, Code, X, raw, run

MINE = (("x-request-id", "mine"),)


def written(stream: io.StringIO, event: str = "request") -> list[dict[str, Any]]:
    lines = [json.loads(text) for text in stream.getvalue().splitlines()]
    return [line for line in lines if line["event"] == event]


def identity(metadata: Any) -> str | None:
    return dict(metadata or ()).get("x-request-id")


def test_every_answer_is_a_line_with_the_id_that_the_client_sent(tmp_path: Path) -> None:
    stream = io.StringIO()
    asked = raw()

    async def body(client: Client, core: Core) -> None:
        call = client.call("ModelInfer", asked, metadata=MINE)
        await call
        assert identity(await call.trailing_metadata()) == "mine"

    run(tmp_path, body, log=Log(stream, plain=False))
    (line,) = written(stream)
    assert (line["request"], line["code"], line["model"]) == ("mine", "OK", "affine")
    assert line["target"] == f"/{SERVICE}/ModelInfer"
    assert line["bytes_in"] == asked.ByteSize()
    assert line["bytes_out"] >= X.nbytes
    assert line["seconds"] > 0


@pytest.mark.parametrize("sent", [(), (("x-request-id", "not one word"),)])
def test_a_refusal_is_a_line_with_an_id_that_the_client_gets(tmp_path: Path, sent: Any) -> None:
    stream = io.StringIO()
    found: list[str | None] = []

    async def body(client: Client, core: Core) -> None:
        request = raw()
        request.model_name = "absent"
        error = await client.refused("ModelInfer", request, metadata=sent)
        assert error.code() == Code.NOT_FOUND
        found.append(identity(error.trailing_metadata()))

    run(tmp_path, body, log=Log(stream, plain=False))
    (line,) = written(stream)
    assert (line["code"], line["model"]) == ("NOT_FOUND", "absent")
    assert found == [line["request"]]
    assert len(line["request"]) == 16


def test_every_message_of_a_stream_is_a_line(tmp_path: Path) -> None:
    stream = io.StringIO()

    async def body(client: Client, core: Core) -> None:
        async def requests() -> Any:
            yield raw()
            yield raw(X[:, :3])
            yield raw()

        call = client.stream(requests(), metadata=MINE)
        assert len([answer async for answer in call]) == 3
        assert identity(await call.trailing_metadata()) == "mine"

    run(tmp_path, body, log=Log(stream, plain=False))
    lines = written(stream)
    assert sorted(line["code"] for line in lines) == ["INVALID_ARGUMENT", "OK", "OK"]
    assert {line["request"] for line in lines} == {"mine"}


def test_what_nobody_foresaw_is_in_the_log_under_the_id_that_the_client_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[str | None] = []

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("in /secret/path")

    async def body(client: Client, core: Core) -> None:
        monkeypatch.setattr(grpc_front, "decode_request", broken)
        error = await client.refused("ModelInfer", raw())
        assert (error.code(), error.details()) == (Code.INTERNAL, UNFORESEEN)
        found.append(identity(error.trailing_metadata()))

    run(tmp_path, body)
    assert found[0] and f"the gRPC call {found[0]} failed" in caplog.text
    assert "in /secret/path" in caplog.text


def test_where_nothing_is_logged_only_an_id_that_was_sent_comes_back(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        for sent, expected in (((), None), (MINE, "mine")):
            call = client.call("ModelInfer", raw(), metadata=sent)
            await call
            assert identity(await call.trailing_metadata()) == expected

    run(tmp_path, body)


def test_loading_and_unloading_are_events(tmp_path: Path) -> None:
    stream = io.StringIO()
    (tmp_path / "tokens").write_text("token-of-an-admin\n")
    admin = (("authorization", "Bearer token-of-an-admin"),)

    async def body(client: Client, core: Core) -> None:
        for name in ("RepositoryModelUnload", "RepositoryModelLoad"):
            request = message(f"{name}Request")(model_name="affine")
            await client.call(name, request, metadata=admin)
        (tmp_path / "affine.onnx").write_bytes(b"nothing")
        request = message("RepositoryModelLoadRequest")(model_name="affine")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call("RepositoryModelLoad", request, metadata=admin)
        assert str(tmp_path) not in str(caught.value.details())

    run(tmp_path, body, log=Log(stream, plain=False), token_file=tmp_path / "tokens")
    assert [line["model"] for line in written(stream, "unloaded")] == ["affine"]
    assert [line["model"] for line in written(stream, "loaded")] == ["affine"]
    (failed,) = written(stream, "load-failed")
    assert (failed["level"], failed["model"]) == ("error", "affine")
    assert "affine.onnx" in failed["reason"]
