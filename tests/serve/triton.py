"""tritonclient's two clients behind one face, for tests that ask both the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .serving import Running
from .waiting import END

TOKEN = "admin-token-of-the-tests"
ADMIN = {"authorization": f"Bearer {TOKEN}"}
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4) / 7

_CODES = {
    "400": "INVALID_ARGUMENT",
    "401": "UNAUTHENTICATED",
    "404": "NOT_FOUND",
    "501": "UNIMPLEMENTED",
    "503": "UNAVAILABLE",
}


class Front:
    """One of the clients, connected; what differs between the two is in the subclasses."""

    name: str
    client: Any

    def __init__(self, server: Running) -> None:
        self.module = pytest.importorskip(f"tritonclient.{self.name}")

    def tensor(self, name: str, array: np.ndarray, **options: Any) -> Any:
        from tritonclient.utils import np_to_triton_dtype

        made = self.module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        made.set_data_from_numpy(array, **options)
        return made

    def wanted(self, *names: str) -> list[Any]:
        return [self.module.InferRequestedOutput(name) for name in names]

    def infer(self, rows: np.ndarray = ROWS, model: str = "affine", **options: Any) -> Any:
        return self.client.infer(model, [self.tensor("x", rows)], **options)

    def code(self, error: Any) -> str:
        """The name of the gRPC status that an error has or stands for."""
        said = str(error.status())
        return _CODES.get(said, said.removeprefix("StatusCode."))

    def listed(self) -> dict[tuple[str, str], str]:
        """States by name and version."""
        index = self._plain(self.client.get_model_repository_index())
        models = index["models"] if isinstance(index, dict) else index
        return {(it["name"], it["version"]): it["state"] for it in models}

    def metadata(self, *model: str) -> Any:
        found = self._plain(self.client.get_model_metadata(*model))
        for port in (*found["inputs"], *found["outputs"]):
            port["shape"] = [int(dim) for dim in port["shape"]]
        return found

    def config(self, model: str) -> Any:
        found = self._plain(self.client.get_model_config(model))
        return found.get("config", found)

    def statistics(self, *model: str) -> list[Any]:
        found: list[Any] = self._plain(self.client.get_inference_statistics(*model))["model_stats"]
        return found

    def described(self, result: Any) -> Any:
        """A response without its data."""
        return self._plain(result.get_response())

    def _plain(self, found: Any) -> Any:
        return found


class Http(Front):
    name = "http"

    def __init__(self, server: Running) -> None:
        super().__init__(server)
        self.client = self.module.InferenceServerClient(
            server.address, concurrency=4, connection_timeout=END, network_timeout=END
        )


class Grpc(Front):
    name = "grpc"

    def __init__(self, server: Running) -> None:
        super().__init__(server)
        self.client = self.module.InferenceServerClient(server.address_of("grpc"))

    def _plain(self, found: Any) -> Any:
        from google.protobuf.json_format import MessageToDict

        return MessageToDict(found, preserving_proto_field_name=True)
