"""A server process that the tests of tritonclient share, and its two clients behind one face."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import serving, triton
from .serving import Running


@pytest.fixture(scope="session")
def protocol_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Serves `affine`, `text`, `two`, and `versions` 1 and 2, over HTTP and gRPC."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "tokens").write_text(f"# admins\n{triton.TOKEN}\n")
    versions = folder / "versions"
    for number, factor in ((1, 2.0), (2, 3.0)):
        (versions / str(number)).mkdir(parents=True)
        serving.affine(versions / str(number) / "model.onnx", factor=factor)
    with serving.serving(
        f"affine={serving.affine(folder / 'affine.onnx')}",
        f"text={serving.text(folder / 'text.onnx')}",
        f"two={serving.two_of_each(folder / 'two.onnx')}",
        f"versions={versions}",
        "--token-file",
        folder / "tokens",
        grpc=True,
        metrics=True,
    ) as running:
        yield running
        assert running.stop() == 0
