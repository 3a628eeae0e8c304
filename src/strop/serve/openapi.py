"""The HTTP interface as an OpenAPI document."""

from __future__ import annotations

import functools
from http import HTTPStatus
from typing import Any

import strop
from strop.serve.codec.datatypes import DATATYPES
from strop.serve.names import PATTERN

_ERRORS = {
    400: "The request is wrong, whatever the state of the server",
    401: "A token is missing, or not the right one",
    403: "Nobody may do this on this server",
    404: "There is no such model or version",
    408: "The request did not arrive in time, or its own timeout passed",
    413: "The request is beyond a limit",
    414: "The request target is too long",
    417: "Something other than 100-continue is expected",
    431: "The headers are too long",
    500: "The model or the server failed on this request",
    503: "Not now: come back after Retry-After seconds",
}
_ANYWHERE = (400, 408, 413, 414, 417, 431, 500, 503)  # before the path is looked at
_TEXT = {"type": "string"}
_MODEL = {"$ref": "#/components/parameters/model"}
_VERSION = {"$ref": "#/components/parameters/version"}


@functools.cache
def openapi() -> dict[str, Any]:
    """An OpenAPI 3.1 description of every path; read-only.

    Examples
    --------
    >>> "/v2/models/{model}/infer" in openapi()["paths"]
    True
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "strop serve",
            "version": strop.__version__,
            "description": "The Open Inference Protocol (V2) over HTTP, with Triton's binary "
            "tensor, model repository, configuration and statistics extensions. Content-Type is "
            "never looked at.",
        },
        "paths": {
            "/v2": _get("Name, version and extensions of the server", "ServerMetadata"),
            "/v2/health/live": _get("Whether the process works", "Live", open_=True),
            "/v2/health/ready": _get(
                "Whether every model takes requests", "Ready", open_=True, unready=True
            ),
            **_both("", lambda own: _get("Inputs and outputs of a model", "ModelMetadata", own)),
            **_both(
                "/ready",
                lambda own: _get(
                    "Whether a model takes requests", "ModelReady", own, open_=True, unready=True
                ),
            ),
            **_both("/config", lambda own: _get("Triton's configuration", "Any", own)),
            **_both("/stats", lambda own: _get("What it has done so far", "Statistics", own)),
            "/v2/models/stats": _get("What every model has done so far", "Statistics"),
            **_both("/infer", _infer),
            "/v2/repository/index": _post("Every version, and its state", "Index", "IndexRequest"),
            "/v2/repository/models/{model}/load": _post(
                "Load or reload a model as it was configured", "Empty", "Empty", admin=True
            ),
            "/v2/repository/models/{model}/unload": _post(
                "Answer what was asked of a model, and let it go", "Empty", "Any", admin=True
            ),
            "/overview.json": _get("What the page at / shows", "Any"),
            "/openapi.json": _get("This document", "Any", open_=True),
            "/metrics": _get("Metrics in Prometheus' text format", None),
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "parameters": {
                "model": _parameter("model", "path", required=True, pattern=True),
                "version": _parameter("version", "path", required=True, pattern=True),
                "json_length": {
                    **_parameter("Inference-Header-Content-Length", "header"),
                    "description": "Bytes of JSON at the beginning of the body, where tensors "
                    "follow as bytes; 0 where the body is the data of the only input.",
                    "schema": {"type": "integer", "minimum": 0},
                },
                "request_id": _parameter("X-Request-Id", "header"),
            },
            "responses": {_name(status): _error(status, text) for status, text in _ERRORS.items()},
            "schemas": _schemas(),
        },
    }


def _get(
    summary: str,
    schema: str | None,
    parameters: list[dict[str, Any]] | None = None,
    *,
    open_: bool = False,
    unready: bool = False,
) -> dict[str, Any]:
    content = {"text/plain": {"schema": _TEXT}} if schema is None else _json(schema)
    responses = {
        "200": {"description": "As asked", "content": content},
        **_errors(*(() if open_ else (401,)), *((404,) if parameters else ())),
    }
    if unready and schema is not None:
        # Too many connections or bytes in flight are 503 as well, with an error for a body.
        either = {"anyOf": [_reference(schema), _reference("Error")]}
        responses["503"] = {
            "description": "Not ready",
            "content": {"application/json": {"schema": either}},
        }
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = parameters
    if not open_:
        operation["security"] = [{}, {"token": []}]
    return {"get": operation}


def _post(summary: str, schema: str, body: str, *, admin: bool = False) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "requestBody": {"required": False, "content": _json(body)},
        "responses": {
            "200": {"description": "Done", "content": _json(schema)},
            **_errors(401, *((403, 404) if admin else ())),
        },
        "security": [{"token": []}] if admin else [{}, {"token": []}],
    }
    if admin:
        operation["parameters"] = [_MODEL]
    return {"post": operation}


def _infer(own: list[dict[str, Any]]) -> dict[str, Any]:
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "post": {
            "summary": "Compute outputs from inputs",
            "parameters": [
                *own,
                {"$ref": "#/components/parameters/json_length"},
                {"$ref": "#/components/parameters/request_id"},
            ],
            "requestBody": {"required": True, "content": {**_json("InferRequest"), **binary}},
            "responses": {
                "200": {
                    "description": "The outputs",
                    "content": {**_json("InferResponse"), **binary},
                },
                **_errors(401, 404),
            },
            "security": [{}, {"token": []}],
        }
    }


def _both(suffix: str, make: Any) -> dict[str, Any]:
    return {
        f"/v2/models/{{model}}{suffix}": make([_MODEL]),
        f"/v2/models/{{model}}/versions/{{version}}{suffix}": make([_MODEL, _VERSION]),
    }


def _parameter(
    name: str, where: str, *, required: bool = False, pattern: bool = False
) -> dict[str, Any]:
    schema: dict[str, Any] = dict(_TEXT)
    if pattern:
        schema["pattern"] = f"^{PATTERN}$"
    return {"name": name, "in": where, "required": required, "schema": schema}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": _reference(schema)}}


def _reference(schema: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _errors(*more: int) -> dict[str, Any]:
    return {
        str(status): {"$ref": f"#/components/responses/{_name(status)}"}
        for status in sorted({*_ANYWHERE, *more})
    }


def _error(status: int, text: str) -> dict[str, Any]:
    response: dict[str, Any] = {"description": text, "content": _json("Error")}
    if status == 401:
        response["headers"] = {"WWW-Authenticate": {"required": True, "schema": _TEXT}}
    if status == 503:
        # Not there where waiting is of no use: the model was unloaded.
        seconds = {"type": "integer", "minimum": 1}
        response["headers"] = {
            name: {"schema": seconds} for name in ("Retry-After", "Retry-After-Ms")
        }
    return response


def _name(status: int) -> str:
    return HTTPStatus(status).name.title().replace("_", "")


def _schemas() -> dict[str, Any]:
    text, natural = _TEXT, {"type": "integer", "minimum": 0}
    datatype = {"type": "string", "enum": list(DATATYPES.values())}
    shape = {"type": "array", "items": natural}
    data = {"type": "array", "description": "Flat, or nested as the shape says"}
    parameters = {"type": "object"}
    tensor = {"name": text, "datatype": datatype, "shape": shape}
    described = _array(_object({**tensor, "shape": _array({"type": "integer", "minimum": -1})}))
    return {
        "Any": {"type": "object"},
        "Empty": {"type": "object", "additionalProperties": False},
        "Error": _object({"error": text}),
        "Live": _object({"live": {"type": "boolean"}}),
        "Ready": _object({"ready": {"type": "boolean"}}),
        "ModelReady": _object({"name": text, "ready": {"type": "boolean"}}),
        "ServerMetadata": _object({"name": text, "version": text, "extensions": _array(text)}),
        "ModelMetadata": _object(
            {
                "name": text,
                "versions": _array(text),
                "platform": text,
                "inputs": described,
                "outputs": described,
            }
        ),
        "Statistics": _object({"model_stats": _array({"type": "object"})}),
        "Index": _array(_object({"name": text, "version": text, "state": text, "reason": text})),
        "IndexRequest": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
        "InferRequest": _object(
            {
                "inputs": {
                    **_array(
                        _object({**tensor, "parameters": parameters, "data": data}, needs=tensor)
                    ),
                    "minItems": 1,
                },
                "outputs": _array(
                    _object({"name": text, "parameters": parameters}, needs=["name"])
                ),
                "id": text,
                "parameters": {
                    "type": "object",
                    "properties": {
                        "priority": {**natural, "description": "1 is the most urgent"},
                        "timeout": {**natural, "description": "Microseconds"},
                        "binary_data_output": {"type": "boolean"},
                    },
                },
            },
            needs=["inputs"],
        ),
        "InferResponse": _object(
            {
                "model_name": text,
                "model_version": text,
                "id": text,
                "outputs": _array(
                    _object({**tensor, "parameters": parameters, "data": data}, needs=tensor)
                ),
            },
            needs=["model_name", "model_version", "outputs"],
        ),
    }


def _object(properties: dict[str, Any], needs: Any = None) -> dict[str, Any]:
    required = list(properties if needs is None else needs)
    return {"type": "object", "properties": properties, "required": required}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}
