from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from strop.errors import InputError, StropError
from strop.serve import repository as repository_of_models
from strop.serve.core import Core
from strop.serve.errors import ServeError, Unavailable, UnknownModel
from strop.serve.repository import Repository
from strop.serve.request import InferRequest, InferResponse
from strop.serve.settings import ModelSettings

from .fakes import WIDTH, round_over, scaling
from .test_batcher import run
from .waiting import END, until

ONES = np.ones((1, WIDTH), np.float32)


def settings(path: Path, **more: Any) -> ModelSettings:
    return ModelSettings(path, threads=1, **more)


async def ask(core: Core, name: str = "m", version: str = "") -> InferResponse:
    return await core.infer(InferRequest(name, {"x": ONES}, version=version))


def states(repository: Repository) -> list[tuple[str, str, str]]:
    return [(it.name, it.version, it.state) for it in repository.index()]


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "strop.serve")


def test_load_infer_unload_and_load_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = Core()
        repository = core.repository
        assert core.ready()
        loading = asyncio.ensure_future(
            repository.load("m", settings(scaling(tmp_path / "m.onnx")))
        )
        await asyncio.sleep(0)
        assert states(repository) == [("m", "1", "LOADING")]
        assert not core.ready()
        with pytest.raises(Unavailable, match="is being loaded") as caught:
            await ask(core)
        assert caught.value.retry_after
        await loading
        assert states(repository) == [("m", "1", "READY")]
        assert core.ready()
        answer = await ask(core)
        assert (answer.model, answer.version) == ("m", "1")
        assert answer.outputs["y"].tolist() == [[2.0] * WIDTH]
        await repository.unload("m")
        assert states(repository) == [("m", "1", "UNAVAILABLE")]
        assert repository.index()[0].reason == "unloaded"
        assert not repository.ready("m")
        assert core.ready()  # it was unloaded on purpose
        with pytest.raises(Unavailable, match="not loaded"):
            await ask(core)
        await repository.load("m")
        assert (await ask(core)).outputs["y"].tolist() == [[2.0] * WIDTH]
        assert await core.drain(END)

    run(scenario())


def test_versions_of_a_folder_and_the_newest_by_number(tmp_path: Path) -> None:
    for version in (2, 9, 10):
        scaling(tmp_path / "models" / str(version) / "model.onnx", float(version))

    async def scenario() -> None:
        core = Core()
        await core.repository.load("m", settings(tmp_path / "models"))
        assert core.repository.versions("m") == ("2", "9", "10")
        assert (await ask(core)).version == "10"
        assert (await ask(core, version="9")).outputs["y"][0, 0] == 9.0
        with pytest.raises(UnknownModel, match="no version '3'"):
            await ask(core, version="3")
        await core.repository.unload("m", version="10")
        assert (await ask(core)).version == "9"
        await core.repository.load("m", settings(scaling(tmp_path / "n.onnx", 5.0)), version="11")
        assert core.repository.versions("m") == ("2", "9", "11")
        assert (await ask(core)).outputs["y"][0, 0] == 5.0
        await core.drain(END)

    run(scenario())


def test_what_fails_to_load_leaves_what_is_served(tmp_path: Path, quiet: None) -> None:
    path = scaling(tmp_path / "m.onnx")

    async def scenario() -> None:
        core = Core()
        await core.repository.load("m", settings(path))
        path.write_bytes(b"not a model")
        with pytest.raises(StropError):
            await core.repository.load("m")
        assert (await ask(core)).outputs["y"][0, 0] == 2.0
        with pytest.raises(StropError):
            await core.repository.load("other", settings(path))
        assert states(core.repository) == [("m", "1", "READY"), ("other", "1", "UNAVAILABLE")]
        assert str(tmp_path) not in core.repository.index()[1].reason
        assert not core.ready()
        with pytest.raises(Unavailable) as caught:
            await ask(core, "other")
        assert str(tmp_path) not in str(caught.value)
        await core.drain(END)

    run(scenario())


def test_a_version_may_be_a_file_of_any_kind_that_is_served(tmp_path: Path) -> None:
    for number, name in enumerate(("a.onnx", "b.xml", "c.tflite"), 1):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / name).touch()
    found = repository_of_models._versions(tmp_path)
    assert {number: path.name for number, path in found.items()} == {
        "1": "a.onnx",
        "2": "b.xml",
        "3": "c.tflite",
    }
    (tmp_path / "3" / "d.onnx").touch()
    with pytest.raises(InputError, match=r"not one model: \.onnx"):
        repository_of_models._versions(tmp_path)


def test_a_version_replaced_before_another_fails_to_load_is_let_go(
    tmp_path: Path, quiet: None
) -> None:
    first = scaling(tmp_path / "m" / "1" / "m.onnx")
    second = scaling(tmp_path / "m" / "2" / "m.onnx", 3.0)

    async def scenario() -> None:
        core = Core()
        repository = core.repository
        await repository.load("m", settings(tmp_path / "m", inline=False))
        before = repository.batcher("m", "1")
        closed: list[bool] = []
        model: Any = before.model
        model.close = lambda: closed.append(True)
        scaling(first, 5.0)
        second.write_bytes(b"not a model")
        with pytest.raises(StropError):
            await repository.load("m")
        assert closed == [True]
        assert before.closing
        assert (await ask(core, version="1")).outputs["y"][0, 0] == 5.0
        assert (await ask(core, version="2")).outputs["y"][0, 0] == 3.0
        await core.drain(END)

    run(scenario())


def test_what_was_unloaded_on_purpose_does_not_make_the_server_unready(
    tmp_path: Path, quiet: None
) -> None:
    """Whatever became of its other versions before."""
    first = scaling(tmp_path / "m" / "1" / "m.onnx")
    scaling(tmp_path / "m" / "2" / "m.onnx")

    async def scenario() -> None:
        core = Core()
        await core.repository.load("m", settings(tmp_path / "m"))
        first.unlink()
        first.parent.rmdir()
        (tmp_path / "m" / "3").mkdir()
        (tmp_path / "m" / "3" / "m.onnx").write_bytes(b"not a model")
        with pytest.raises(StropError):
            await core.repository.load("m")
        (tmp_path / "m" / "3" / "m.onnx").unlink()
        (tmp_path / "m" / "3").rmdir()
        await core.repository.load("m")
        reasons = {it.version: it.reason for it in core.repository.index()}
        assert reasons == {
            "1": "no longer in the repository",
            "2": "",
            "3": "it could not be loaded",
        }
        await core.repository.unload("m")
        assert {it.reason for it in core.repository.index()} == {"unloaded"}
        assert core.ready()
        await core.drain(END)

    run(scenario())


def test_what_is_loaded_when_the_server_has_ended_serves_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    """The process does not wait for the thread that loads it, and nothing is left of it."""
    opened = threading.Event()
    real = repository_of_models._open_warm
    closed: list[bool] = []

    def slow(*arguments: Any) -> Any:
        model: Any = real(*arguments)
        close = model.close

        def noted() -> None:
            closed.append(True)
            close()

        model.close = noted
        assert opened.wait(END)
        return model

    monkeypatch.setattr(repository_of_models, "_open_warm", slow)
    path = scaling(tmp_path / "m.onnx")

    async def scenario() -> None:
        core = Core()
        loading = asyncio.ensure_future(core.repository.load("m", settings(path)))
        await until(core.repository.opening)
        assert await core.drain(END)
        assert core.repository.opening()
        opened.set()
        with pytest.raises(Unavailable, match="stopping"):
            await loading
        assert not core.repository.opening()
        assert closed == [True]
        assert core.repository.batchers() == []

    run(scenario())


def test_a_folder_without_a_version_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "models" / "1").mkdir(parents=True)

    async def scenario() -> None:
        core = Core()
        with pytest.raises(InputError, match="no bundle"):
            await core.repository.load("m", settings(tmp_path / "models"))
        assert core.repository.index() == []
        with pytest.raises(UnknownModel):
            await ask(core)
        await core.drain(1)

    run(scenario())


def test_a_reload_serves_the_new_file_and_other_versions_go(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    scaling(folder / "1" / "model.onnx", 2.0)

    async def scenario() -> None:
        core = Core()
        await core.repository.load("m", settings(folder))
        scaling(folder / "2" / "model.onnx", 3.0)
        (folder / "1" / "model.onnx").unlink()
        (folder / "1").rmdir()
        await core.repository.load("m")
        assert states(core.repository) == [("m", "1", "UNAVAILABLE"), ("m", "2", "READY")]
        assert (await ask(core)).outputs["y"][0, 0] == 3.0
        await core.drain(END)

    run(scenario())


@pytest.mark.parametrize("name", ["", "stats", "a/b", "..", "a%00", "a\0", "-x", "x" * 129, "ü"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    async def scenario() -> None:
        core = Core()
        with pytest.raises(InputError, match="cannot be a model's name"):
            await core.repository.load(name, settings(tmp_path))
        with pytest.raises(UnknownModel):
            await ask(core, name)
        with pytest.raises(UnknownModel):
            await core.repository.unload(name)
        await core.drain(1)

    run(scenario())


def test_what_clients_sent_comes_back_short_and_printable() -> None:
    async def scenario() -> None:
        core = Core()
        with pytest.raises(UnknownModel) as caught:
            await ask(core, "\r\n\0" + "x" * 500)
        assert len(str(caught.value)) < 100
        assert str(caught.value).isprintable()
        assert core.refused == {"unknown": 1}
        refusal = core.refusal("nobody")
        assert isinstance(refusal, UnknownModel)
        await core.drain(1)

    run(scenario())


def test_a_memory_limit_refuses_what_grows_beyond_it(tmp_path: Path, quiet: None) -> None:
    path = scaling(tmp_path / "m.onnx")

    async def scenario() -> None:
        core = Core()
        await core.repository.load("m", settings(path, memory_limit=2**40))
        big = np.zeros((2**21,), np.float32)  # 8 MiB
        from onnx import TensorProto, helper

        from .fakes import network

        heavy = network(
            tmp_path / "heavy.onnx",
            [helper.make_node("Add", ["x", "k"], ["y"])],
            [("x", TensorProto.FLOAT, ["n", 2**21])],
            [("y", TensorProto.FLOAT, ["n", 2**21])],
            {"k": big},
        )
        with pytest.raises(StropError, match="its limit is 4 MiB"):
            await core.repository.load(
                "heavy", settings(heavy, memory_limit=4 * 2**20, max_batch=1)
            )
        assert not core.repository.ready("heavy")
        await core.drain(END)

    run(scenario())


def test_drain_answers_what_is_open_and_refuses_what_comes(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = Core()
        path = scaling(tmp_path / "m.onnx")
        await core.repository.load("m", settings(path, policy="fixed", delay=0.1))
        open_ = [asyncio.ensure_future(ask(core)) for _ in range(5)]
        await round_over()
        draining = asyncio.ensure_future(core.drain(END))
        await round_over()
        assert not core.ready()
        assert core.live()
        with pytest.raises(Unavailable, match="stopping"):
            await ask(core)
        assert await draining
        assert [(await it).outputs["y"][0, 0] for it in open_] == [2.0] * 5

    run(scenario())


def test_a_drain_ends_at_its_limit(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = Core()
        path = scaling(tmp_path / "m.onnx")
        await core.repository.load("m", settings(path, policy="fixed", delay=1000.0))
        open_ = asyncio.ensure_future(ask(core))
        await until(lambda: core.repository.batcher("m").queued == 1)
        assert not await core.drain(0.05)
        with pytest.raises(Unavailable):
            await open_

    run(scenario())


def test_cancelling_an_infer_takes_the_request_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = Core()
        path = scaling(tmp_path / "m.onnx")
        await core.repository.load("m", settings(path, policy="fixed", delay=1000.0))
        waiting = asyncio.ensure_future(ask(core))
        await until(lambda: core.repository.batcher("m").queued == 1)
        waiting.cancel()
        await until(lambda: core.repository.batcher("m").queued == 0)
        assert await core.drain(END)

    run(scenario())


async def reload_under_traffic(
    path: Path, cycles: int, check: Callable[[int], None], inline: bool = True
) -> None:
    """Reload `m` and load and unload a second version, while clients ask."""
    core = Core()
    chosen = settings(path, max_batch=4, inline=inline)
    await core.repository.load("m", chosen)
    stop, answered = False, 0

    async def client(number: int) -> None:
        nonlocal answered
        x = np.full((1, WIDTH), number, np.float32)
        while not stop:
            answer = await core.infer(InferRequest("m", {"x": x}))
            assert answer.outputs["y"][0, 0] == 2 * number
            answered += 1
            await asyncio.sleep(0.0005)

    def each_answered_since(before: int) -> Callable[[], bool]:
        return lambda: answered > before + len(clients)

    clients = [asyncio.ensure_future(client(number)) for number in range(8)]
    for cycle in range(cycles):
        await core.repository.load("m")
        await core.repository.load("m", chosen, version="2")
        await core.repository.unload("m", version="2")
        await core.repository.load("m", version="1")
        check(cycle)
        await until(each_answered_since(answered))
    stop = True
    await asyncio.gather(*clients)
    assert core.refused == {}
    assert await core.drain(END)


@pytest.mark.parametrize("inline", [True, False])
def test_clients_see_no_error_while_models_come_and_go(tmp_path: Path, inline: bool) -> None:
    path = scaling(tmp_path / "m.onnx")
    run(reload_under_traffic(path, 5, lambda cycle: None, inline=inline))


@pytest.mark.slow
def test_a_thousand_cycles_leave_memory_as_it_was(tmp_path: Path) -> None:
    path = scaling(tmp_path / "m.onnx")
    process = psutil.Process()
    resident: list[int] = []

    def check(cycle: int) -> None:
        if cycle % 50 == 49:
            gc.collect()
            resident.append(process.memory_info().rss)

    asyncio.run(reload_under_traffic(path, 500, check))  # two loads and an unload each
    assert resident[-1] <= 1.05 * resident[1]


def test_errors_are_serve_errors(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = Core()
        answers: list[InferResponse | ServeError] = []
        ticket = core.submit(InferRequest("m", {}), answers.append)
        ticket.cancel()
        assert isinstance(answers[0], ServeError)
        await core.drain(1)

    run(scenario())
