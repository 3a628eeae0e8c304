"""A model that hangs on the event loop's own thread, and what notices it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import signal
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from strop.errors import InputError
from strop.serve.batcher import Batcher
from strop.serve.config import ServerConfig
from strop.serve.instance import INLINE_LIMIT
from strop.serve.logs import Log
from strop.serve.settings import ModelSettings
from strop.serve.warmup import warm
from strop.serve.watchdog import Watchdog
from tests.serve.fakes import Asked, Doubling, served, settle
from tests.serve.serving import Running, parse_responses, post, read_all, serving


def endless(path: Path) -> Path:
    """y = x after as many turns of a loop as the largest element of the int64[n, 1] says."""
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 1])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, ["n", 1])
    one = [helper.make_tensor_value_info(name, kind, []) for name, kind in _SCALARS]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["c_out"]),
            helper.make_node("Add", ["s", "i"], ["s_out"]),
        ],
        "body",
        one[:3],
        one[3:],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["turns"], keepdims=0),
            helper.make_node("Loop", ["turns", "yes", "zero"], ["sum"], body=body),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("Add", ["x", "nothing"], ["y"]),
        ],
        "endless",
        [x],
        [y],
        [
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.array(0, np.int64), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


_SCALARS = [
    ("i", TensorProto.INT64),
    ("c", TensorProto.BOOL),
    ("s", TensorProto.INT64),
    ("c_out", TensorProto.BOOL),
    ("s_out", TensorProto.INT64),
]


def ask(turns: int) -> bytes:
    data = b'{"inputs":[{"name":"x","datatype":"INT64","shape":[1,1],"data":[%d]}]}' % turns
    return post("/v2/models/endless/infer", data, "Connection: close")


def configured(folder: Path, *more: str) -> Path:
    endless(folder / "endless.onnx")
    path = folder / "serve.yaml"
    models = ("models:", "  endless:", "    path: endless.onnx", "    inline: true")
    path.write_text("\n".join((*more, *models)))
    return path


def wait_for_text(running: Running, words: str) -> None:
    """Until the server has written them to stderr, outside of its log."""
    while not any(words in str(it.get("text", "")) for it in running.events):
        running.wait_for("text")


def test_a_loop_that_hangs_is_shown_and_the_process_ends_when_asked_to(tmp_path: Path) -> None:
    with serving("--config", configured(tmp_path, "stuck: 5s", "exit_when_stuck: true")) as running:
        assert running.talk(ask(3)).endswith(b'"data":[3]}]}')
        assert running.talk(ask(10**15)) == b""  # the process goes, and with it the connection
        assert running.process.wait(60) == 1
        wait_for_text(running, "Timeout")
        wait_for_text(running, "in compute")


def test_a_loop_that_hangs_is_shown(tmp_path: Path) -> None:
    with (
        serving("--config", configured(tmp_path, "stuck: 1s")) as running,
        running.connect() as connection,
    ):
        connection.sendall(ask(10**15))
        wait_for_text(running, "in compute")
        assert running.process.poll() is None
        # Python's own handler of SIGTERM would wait for the loop for ever.
        running.process.send_signal(signal.SIGKILL)
        assert running.process.wait(60) == -signal.SIGKILL


def test_a_request_that_hangs_on_a_thread_fails_alone(tmp_path: Path) -> None:
    """With a real engine that computes on and on, which nothing can end from outside."""
    endless(tmp_path / "endless.onnx")
    config = tmp_path / "serve.yaml"
    config.write_text(
        "models: {endless: {path: endless.onnx, inline: false, hang: 5s, max_batch: 1}}\n"
    )
    with serving("--config", config) as running, running.connect() as connection:
        connection.sendall(ask(10**15))
        assert running.talk(ask(3)).endswith(b'"data":[3]}]}')  # waited for the new worker
        ((status, _, text),) = parse_responses(read_all(connection))
        assert status == 500
        assert json.loads(text) == {"error": "'endless' did not answer within 5 s"}
        assert running.talk(ask(4)).endswith(b'"data":[4]}]}')
        assert running.stop(60) == 0  # although a thread still computes


def test_a_model_that_turns_slow_leaves_the_loops_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> list[object]:
        session = Doubling()
        batcher = Batcher(served(session, inline=True), asyncio.get_running_loop())
        asked = Asked(batcher)
        asked(1.0)
        await asked.all()
        session.seconds = 1.5 * INLINE_LIMIT
        asked(2.0)
        await asked.all()
        assert not batcher.model.inline
        session.gate.clear()
        asked(3.0)
        asked(4.0)
        for _ in range(5):  # the loop goes on while the model waits: here it would hang for ever
            await asyncio.sleep(0)
        session.gate.set()
        await asked.all()
        await settle(batcher)
        return asked.values()

    with caplog.at_level(logging.WARNING, "strop.serve"):
        assert asyncio.run(scenario()) == [2.0, 4.0, 6.0, 8.0]
    assert "runs on a thread from now on" in caplog.text


def test_no_setting_puts_a_slow_model_on_the_loops_thread(caplog: pytest.LogCaptureFixture) -> None:
    session = Doubling(seconds=0.002)
    model = served(session, inline=True, max_batch=2)
    with caplog.at_level(logging.WARNING, "strop.serve"):
        warm(model)
    assert not model.inline
    assert "too slow to run inline" in caplog.text


def test_rare_slow_calls_keep_a_model_off_the_loops_thread() -> None:
    class Moody(Doubling):
        calls = 0

        def run(self, arrays: object) -> dict[str, np.ndarray]:
            self.calls += 1
            time.sleep(0.003 if self.calls % 25 == 0 else 0.0)
            return super().run(arrays)  # type: ignore[arg-type]

    model = served(Moody(), inline=None, max_batch=2)
    warm(model)
    assert not model.inline


def test_a_stall_that_ends_is_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    lines = io.StringIO()

    async def scenario() -> None:
        watchdog = Watchdog(0.05, Log(lines))
        watchdog.start()
        time.sleep(0.5)  # on the loop's thread, as a model would
        end = time.monotonic() + 60
        while "was-stuck" not in lines.getvalue():
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        watchdog.stop()

    asyncio.run(scenario())
    assert '"level":"error"' in lines.getvalue()


def test_leaving_needs_looking(tmp_path: Path) -> None:
    model = ModelSettings(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="stuck"):
        ServerConfig({"m": model}, stuck_seconds=0.0, exit_when_stuck=True)
