"""The server under test: its address, and what it says about the model."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from strop.errors import InputError

_OTHERWISE = "the server must speak the Open Inference Protocol; otherwise give --body FILE"
_HINTS = {401: "give a token with --token-file", 404: "name a model that is there: --model NAME"}
_SECONDS_FOR_METADATA = 30.0


@dataclass(frozen=True)
class Tensor:
    """One input as the server describes it; -1 stands for a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """Where requests go.

    Attributes
    ----------
    prefix
        What comes before ``/v2`` in the path; usually nothing.
    model, version
        Empty where the URL names none.
    path
        The rest of the path as it was given; posts without the protocol go there.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    prefix: str = ""
    model: str = ""
    version: str = ""
    path: str = "/"
    token: str | None = None

    @property
    def url(self) -> str:
        """The server's address without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def model_path(self) -> str:
        """The path of the model's resources; ``/infer`` hangs below it."""
        version = f"/versions/{quote(self.version, safe='')}" if self.version else ""
        return f"{self.prefix}/v2/models/{quote(self.model, safe='')}{version}"

    def head(self, path: str, length: int, *extra: tuple[str, str]) -> bytes:
        """The request line and headers of a POST to `path`."""
        host = self.url.partition("//")[2]
        lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {length}"]
        if self.token:
            lines.append(f"Authorization: Bearer {self.token}")
        lines += [f"{name}: {value}" for name, value in extra]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def parse_target(
    url: str, *, model: str = "", token: str | None = None, ca: Path | None = None
) -> Target:
    """The target that a URL names: a server, or a model on it.

    Examples
    --------
    >>> target = parse_target("http://localhost:8000/v2/models/mnist/versions/2/infer")
    >>> target.host, target.port, target.model, target.version
    ('localhost', 8000, 'mnist', '2')
    >>> parse_target("localhost:8000", model="mnist").model_path
    '/v2/models/mnist'
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise InputError(
            f"'{url}' is not the address of a server",
            hint="write it as http://localhost:8000 or http://localhost:8000/v2/models/NAME",
        )
    prefix, found, rest = parts.path.rstrip("/").partition("/v2")
    words = rest.strip("/").split("/")
    named, version = "", ""
    if found and len(words) >= 2 and words[0] == "models":
        named = unquote(words[1])
        version = unquote(words[3]) if len(words) >= 4 and words[2] == "versions" else ""
    return Target(
        host=parts.hostname,
        port=port or (443 if parts.scheme == "https" else 80),
        tls=_tls(ca) if parts.scheme == "https" else None,
        prefix=prefix if found else parts.path.rstrip("/"),
        model=model or named,
        version="" if model and model != named else version,
        path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        token=token,
    )


def describe_model(target: Target) -> tuple[Target, tuple[Tensor, ...]]:
    """The target with its model named, and the model's inputs.

    Where no model was named, the one that is ready is taken if there is only one.

    Raises
    ------
    InputError
        When the server cannot be reached, does not speak the protocol, or several models are
        ready.
    """
    if not target.model:
        target = replace(target, model=_only_model(target))
    found = _call(target, "GET", target.model_path)
    try:
        inputs = tuple(
            Tensor(str(one["name"]), str(one["datatype"]), tuple(int(dim) for dim in one["shape"]))
            for one in found["inputs"]
        )
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{target.url} does not describe the inputs of '{target.model}'",
            hint="give the request's body with --body FILE",
        ) from None
    return target, inputs


def _only_model(target: Target) -> str:
    index = _call(target, "POST", f"{target.prefix}/v2/repository/index")
    try:
        ready = sorted({one["name"] for one in index if one.get("state", "READY") == "READY"})
    except (TypeError, KeyError, AttributeError):
        ready = []
    if len(ready) != 1:
        names = ", ".join(ready) or "none"
        raise InputError(f"no model was named, and {names} are ready", hint="pass --model NAME")
    return str(ready[0])


def _call(target: Target, method: str, path: str) -> Any:
    connection: http.client.HTTPConnection
    if target.tls is not None:
        connection = http.client.HTTPSConnection(
            target.host, target.port, timeout=_SECONDS_FOR_METADATA, context=target.tls
        )
    else:
        connection = http.client.HTTPConnection(
            target.host, target.port, timeout=_SECONDS_FOR_METADATA
        )
    headers = {"Authorization": f"Bearer {target.token}"} if target.token else {}
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"{target.url} does not answer: {error}", hint="start the server, or check the address"
        ) from error
    finally:
        connection.close()
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if response.status != 200 or found is None:
        said = found.get("error", "") if isinstance(found, dict) else ""
        raise InputError(
            f"{method} {target.url}{path} is answered with {response.status}"
            + (f": {said}" if said else ""),
            hint=_HINTS.get(response.status, _OTHERWISE) if said else _OTHERWISE,
        )
    return found


def _tls(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"the certificates in {ca} cannot be read: {error}") from error
