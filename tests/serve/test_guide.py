"""What `docs/guide-serve.md` prints, run as it is printed."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.serve.fakes import network
from tests.serve.serving import Running, serving

GUIDE = Path(__file__).parents[2] / "docs" / "guide-serve.md"
CLIENTS = {
    heading: (language, code)
    for heading, language, code in re.findall(
        r"^\*\*([^*\n]+)\*\*[^\n]*\n\n```(python|sh)\n(.*?)^```$",
        GUIDE.read_text(),
        re.DOTALL | re.MULTILINE,
    )
}
IMAGE = "import numpy\nimage = numpy.ones((1, 1, 28, 28), numpy.float32)\n"
NEEDED = {
    "tritonclient, HTTP": "tritonclient",
    "tritonclient, gRPC": "tritonclient",
    "The KServe SDK": "kserve",
    "The KServe SDK, gRPC": "kserve",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = network(
        tmp_path_factory.mktemp("guide") / "resnet.onnx",
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        ],
        [("image", TensorProto.FLOAT, ["n", 1, 28, 28])],
        [("logits", TensorProto.FLOAT, ["n", 10])],
        {"w": np.outer(np.ones(784), np.arange(10)).astype(np.float32)},
    )
    with serving(path, grpc=True) as running:
        yield running
        assert running.stop() == 0


def at(server: Running, text: str) -> str:
    """The text with the guide's addresses replaced by the server's."""
    text = text.replace("localhost:8000", server.address)
    return text.replace("localhost:8001", server.address_of("grpc"))


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_client_is_there() -> None:
    assert CLIENTS.keys() == {*NEEDED, "curl"}


@pytest.mark.parametrize("heading", sorted(CLIENTS))
def test_clients(server: Running, tmp_path: Path, heading: str) -> None:
    language, code = CLIENTS[heading]
    if language == "sh":
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        # All zeros there, so that the answers are zeros as well.
        said = run(["bash", "-euc", at(server, code)], tmp_path)
        assert '"shape":[1,10],"data":[0.0,' in said
        return
    if importlib.util.find_spec(NEEDED[heading]) is None:
        pytest.skip(f"{NEEDED[heading]} is not installed")
    said = run([sys.executable, "-c", IMAGE + at(server, code)], tmp_path)
    assert [float(it) for it in re.findall(r"[\d.]+", said)] == [784 * it for it in range(10)]


def test_the_refusal_that_it_shows(server: Running, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    shown = re.search(r"^\$ (curl \S+/infer --json .*)\n(\{.*\})$", GUIDE.read_text(), re.MULTILINE)
    assert shown
    assert run(["bash", "-euc", at(server, shown[1])], tmp_path) == shown[2]
