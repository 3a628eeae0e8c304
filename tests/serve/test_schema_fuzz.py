"""What `/openapi.json` says of the HTTP side, held against a server by schemathesis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from strop.serve.openapi import openapi
from tests.serve import serving
from tests.serve.serving import Running

OPERATIONS = [
    (path, method) for path, item in sorted(openapi()["paths"].items()) for method in sorted(item)
]
TOKEN = "a-token-for-tests"
SOME = 6
MANY = 250


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schema")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    (folder / "token").write_text(TOKEN)
    affine = serving.affine(folder / "affine.onnx")
    text = serving.text(folder / "text.onnx")
    with serving.serving(affine, text, "--token-file", folder / "token") as running:
        yield running
        assert not [it for it in running.events if it.get("level") == "error"]
        assert running.stop() == 0


class Api:
    """The document as schemathesis reads it, and a session with the server."""

    def __init__(self, server: Running, folder: Path) -> None:
        import requests
        import schemathesis
        from schemathesis.checks import not_a_server_error
        from schemathesis.specs.openapi import checks

        self.checks = [
            not_a_server_error,
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_schema_conformance,
            checks.response_headers_conformance,
        ]
        self.session = requests.Session()
        self.session.trust_env = False
        self.folder = str(folder).encode()
        self.url = f"http://{server.address}"
        document = self.session.get(f"{self.url}/openapi.json", timeout=60).json()
        assert document == json.loads(json.dumps(openapi()))
        schema = schemathesis.openapi.from_dict(document, config=schemathesis.Config())
        schema.validate()
        self.operations = {
            (it.ok().path, it.ok().method): it.ok() for it in schema.get_all_operations()
        }

    def cases(self, path: str, method: str) -> st.SearchStrategy[Any]:
        """Requests that fit the document and requests that do not, of any model and of ours."""
        from schemathesis import GenerationMode

        operation = self.operations[path, method]
        ours = {
            name: value
            for name, value in (("model", "affine"), ("version", "1"))
            if f"{{{name}}}" in path
        }
        return st.one_of(
            operation.as_strategy(generation_mode=mode, path_parameters=given_parameters)
            for mode in GenerationMode
            for given_parameters in ([None, ours] if ours else [None])
        )

    def ask(self, case: Any) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return case.call(self.url, session=self.session, headers=headers, timeout=60)

    def hold(self, path: str, method: str, examples: int) -> None:
        """Send that many requests, the same ones each time, and check every answer."""

        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(self.cases(path, method))
        def each(case: Any) -> None:
            response = self.ask(case)
            case.validate_response(response, checks=self.checks)
            for leak in (b"Traceback", b".py", b".onnx", self.folder):
                assert leak not in response.content

        each()


@pytest.fixture(scope="module")
def api(server: Running, folder: Path) -> Iterator[Api]:
    made = Api(server, folder)
    yield made
    made.session.close()


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_operation_answers_as_described(api: Api, path: str, method: str) -> None:
    api.hold(path, method, SOME)


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_a_good_inference_answers_as_described(api: Api, version: str) -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    path = "/v2/models/{model}" + version.replace("1", "{version}") + "/infer"
    case = api.operations[path, "post"].Case(
        path_parameters={"model": "affine", "version": "1"} if version else {"model": "affine"},
        body={"inputs": [entry], "id": "7", "parameters": {"priority": 1, "timeout": 10**9}},
        media_type="application/json",
    )
    load = api.operations["/v2/repository/models/{model}/load", "post"]  # others may unload it
    assert api.ask(load.Case(path_parameters={"model": "affine"})).status_code == 200
    response = api.ask(case)
    assert response.status_code == 200
    assert response.json()["outputs"][0]["data"] == [2, 4, 6, 8]
    case.validate_response(response, checks=api.checks)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_operation_answers_as_described_at_length(api: Api, path: str, method: str) -> None:
    api.hold(path, method, MANY)
