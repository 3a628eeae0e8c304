"""What a server is started with: options and ``serve.yaml``, checked before anything starts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strop.amounts import parse_bytes, parse_seconds
from strop.errors import InputError, MissingExtra
from strop.serve.codec import Limits
from strop.serve.names import is_name
from strop.serve.settings import ModelSettings

_SIZES = frozenset({"head", "body", "json", "in_flight", "slowest"})
_COUNTS = frozenset({"elements", "strings", "rank", "tensors", "connections", "pipelined"})


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything that a server is told.

    Attributes
    ----------
    models
        How each model is served, by name.
    host
        Address to listen on.
    http, grpc, metrics
        Ports; None leaves that front out, 0 takes any port that is free.
    grpc_required
        Whether a missing grpcio is an error; else its front is left out with a word in the log.
    token_file
        Bearer tokens that may load and unload models, which nobody may without it.
    infer_token_file
        Bearer tokens without one of which nobody may infer; None lets everybody.
    tls_cert, tls_key
        PEM files; None serves plain HTTP.
    limits
        Bounds on what clients send.
    drain_seconds
        How long open requests may take once the server is told to stop.
    log_requests
        Whether every request is a line in the log.
    stuck_seconds
        When the event loop has not run for so long, the stack of every thread goes to stderr; 0
        never looks.
    exit_when_stuck
        Whether the process then ends, with exit code 1.
    """

    models: Mapping[str, ModelSettings]
    host: str = "127.0.0.1"
    http: int | None = 8000
    grpc: int | None = 8001
    metrics: int | None = 8002
    grpc_required: bool = False
    token_file: Path | None = None
    infer_token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    limits: Limits = field(default_factory=Limits)
    drain_seconds: float = 30.0
    log_requests: bool = False
    stuck_seconds: float = 10.0
    exit_when_stuck: bool = False

    def __post_init__(self) -> None:
        if not self.models:
            raise InputError("no model to serve", hint="name a bundle or a model: strop serve out/")
        for name in self.models:
            if not is_name(name):
                raise InputError(
                    f"'{name}' cannot be a model's name",
                    hint="letters, digits and . _ - make one ('stats' is taken)",
                )
        ports = [port for port in (self.http, self.grpc, self.metrics) if port is not None]
        if self.http is None and self.grpc is None:
            raise InputError("neither HTTP nor gRPC is to be served", hint="leave one of them on")
        if self.exit_when_stuck and not self.stuck_seconds:
            raise InputError(
                "exit_when_stuck, but never looked at: stuck is 0", hint="give stuck: 10s"
            )
        for port in ports:
            if port and ports.count(port) > 1:
                raise InputError(f"two fronts want the port {port}", hint="give each its own")


def from_options(
    models: Sequence[str],
    *,
    config: Path | None = None,
    server: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> ServerConfig:
    """The configuration that a file and the options beside it describe; options win.

    Parameters
    ----------
    models
        Paths, or ``name=path``; added to the models of the file.
    config
        A YAML file.
    server
        Options of the whole server, as they would be in the file; None counts as not given.
    defaults
        Options of every model (``slo``, ``max_batch``, ``workers``, ``cache`` …), likewise.

    Raises
    ------
    InputError
        Names the first value that cannot be used, and where it stands.
    """
    document = {} if config is None else _read_yaml(config)
    where = "the options" if config is None else f"'{config}'"
    document.update({key: value for key, value in (server or {}).items() if value is not None})
    for key in [key for key in document if key in _MODEL_OPTIONS]:
        document.setdefault("defaults", {})
        document["defaults"] = {
            **_mapping(document["defaults"], "defaults"),
            key: document.pop(key),
        }
    shared = _mapping(document.pop("defaults", {}), "defaults")
    shared.update({key: value for key, value in (defaults or {}).items() if value is not None})
    base = Path() if config is None else config.parent
    settings: dict[str, ModelSettings] = {}
    for name, value in _mapping(document.pop("models", {}), "models").items():
        options = value if isinstance(value, dict) else {"path": value}
        if not isinstance(options.get("path"), str):
            raise InputError(f"the model '{name}' in {where} has no path")
        path = _resolve(base / options["path"])
        rest = {key: item for key, item in options.items() if key != "path"}
        settings[str(name)] = _settings(path, {**shared, **rest}, f"models.{name}")
    for text in models:
        name, path = _named(text)
        if name in settings:
            raise InputError(
                f"two models are called '{name}'", hint=f"call one of them other={path}"
            )
        settings[name] = _settings(path, shared)
    limits = _limits(_mapping(document.pop("limits", {}), "limits"))
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in _SERVER_OPTIONS:
            known = ", ".join(sorted([*_SERVER_OPTIONS, *_MODEL_OPTIONS, "models", "limits"]))
            raise InputError(f"{where} has an unknown key '{key}'", hint=f"known: {known}")
        target, convert = _SERVER_OPTIONS[key]
        values[target] = _converted(convert, value, key)
    for key in ("token_file", "infer_token_file", "tls_cert", "tls_key"):
        given = values.get(key)
        if given is not None and (server or {}).get(key) is None:
            values[key] = base / given
    if (document.get("grpc")) is not None:
        values["grpc_required"] = True
    return ServerConfig(models=settings, limits=limits, **values)


def default_name(path: Path) -> str:
    """What a model is called where no name is given: as its bundle says, else as its file is.

    Examples
    --------
    >>> default_name(Path("models/resnet 18.onnx"))
    'resnet-18'
    """
    if path.is_dir() and (path / "manifest.json").is_file():
        from strop.bundle import read_manifest

        name = read_manifest(path).name
    else:
        name = path.resolve().name if path.is_dir() else path.stem
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-._")[:100]
    name = re.sub(r"\.{2,}", ".", name)
    return name if is_name(name) else "model"


def _named(text: str) -> tuple[str, Path]:
    name, separator, rest = text.partition("=")
    if separator and not Path(text).exists():
        if not rest:
            raise InputError(f"'{text}' names no path", hint="write it as name=path")
        return name, _resolve(Path(rest))
    path = _resolve(Path(text))
    return default_name(path), path


def _resolve(path: Path) -> Path:
    """A model's path; of what ``strop optimize`` wrote, the bundle in it."""
    if not path.exists():
        raise InputError(
            f"'{path}' does not exist",
            hint="name a bundle, an ONNX file, an OpenVINO .xml or a .tflite",
        )
    if path.is_dir() and not (path / "manifest.json").is_file():
        if (path / "bundle" / "manifest.json").is_file():
            return path / "bundle"
        if not any(child.name.isdecimal() and child.is_dir() for child in path.iterdir()):
            raise InputError(
                f"the folder '{path}' holds no bundle",
                hint="name what strop optimize wrote, or a folder of versions 1, 2 …",
            )
    return path


def _settings(path: Path, options: Mapping[str, Any], where: str = "") -> ModelSettings:
    values: dict[str, Any] = {}
    at = f"{where}: " if where else ""
    for key, value in options.items():
        if key not in _MODEL_OPTIONS:
            known = ", ".join(sorted(_MODEL_OPTIONS))
            raise InputError(f"{at}unknown key '{key}'", hint=f"known: {known}")
        target, convert = _MODEL_OPTIONS[key]
        values[target] = None if value is None else _converted(convert, value, f"{at}{key}")
    try:
        return ModelSettings(path=path, **values)
    except InputError as error:
        raise InputError(f"{at}{error.message}", hint=error.hint) from None


def _limits(options: Mapping[str, Any]) -> Limits:
    known = {entry.name for entry in dataclasses.fields(Limits)}
    values: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            raise InputError(
                f"limits has an unknown key '{key}'", hint=f"known: {', '.join(sorted(known))}"
            )
        convert = _size if key in _SIZES else _count if key in _COUNTS else _seconds
        values[key] = _converted(convert, value, f"limits.{key}")
        if not values[key] > 0:
            raise InputError(f"limits.{key} is {value}", hint="give more than 0")
    return Limits(**values)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise MissingExtra("PyYAML", extra="serve") from None
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from None
    return _mapping(document or {}, f"'{path}'")


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{where} is not a mapping of names to values")
    return dict(value)


def _converted(convert: Callable[[Any], Any], value: Any, where: str) -> Any:
    try:
        return convert(value)
    except InputError as error:
        raise InputError(f"{where}: {error.message}", hint=error.hint) from None


def _port(value: Any) -> int | None:
    if value is False or str(value).lower() in ("off", "none"):
        return None
    try:
        port = -1 if value is True else int(value)
    except (TypeError, ValueError):
        port = -1
    if not 0 <= port < 1 << 16:
        raise InputError(f"'{value}' is not a port", hint="give 0 to 65535, or 'off'")
    return port


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"'{value}' is not a whole number")
    return value


def _seconds(value: Any) -> float:
    return parse_seconds(value, zero=True)


def _size(value: Any) -> int:
    return parse_bytes(value, zero=True)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"'{value}' is neither true nor false")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"'{value}' is not a number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"'{value}' is not a text")
    return value


def _path(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(value))


_SERVER_OPTIONS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "host": ("host", _text),
    "http": ("http", _port),
    "grpc": ("grpc", _port),
    "metrics": ("metrics", _port),
    "token_file": ("token_file", _path),
    "infer_token_file": ("infer_token_file", _path),
    "tls_cert": ("tls_cert", _path),
    "tls_key": ("tls_key", _path),
    "drain": ("drain_seconds", _seconds),
    "log_requests": ("log_requests", _flag),
    "stuck": ("stuck_seconds", _seconds),
    "exit_when_stuck": ("exit_when_stuck", _flag),
}
_MODEL_OPTIONS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "slo": ("slo", _seconds),
    "max_batch": ("max_batch", _count),
    "batching": ("batching", _text),
    "tolerance": ("tolerance", _number),
    "policy": ("policy", _text),
    "delay": ("delay", _seconds),
    "workers": ("workers", _count),
    "threads": ("threads", _count),
    "inline": ("inline", _flag),
    "priority": ("default_priority", _count),
    "max_queue": ("max_queue", _count),
    "max_queue_bytes": ("max_queue_bytes", _size),
    "memory": ("memory_limit", _size),
    "cache": ("cache_bytes", _size),
    "hang": ("hang_seconds", _seconds),
    "trust": ("trust", _flag),
}
