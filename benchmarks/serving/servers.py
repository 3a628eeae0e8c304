"""Servers as processes of their own, pinned to one core."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

HERE = Path(__file__).parent
RIVALS = HERE / "rivals"
PACKAGES = {"mlserver": "mlserver", "litserve": "litserve", "mosec": "mosec"}
BATCH = 32
WAIT_MS = 1  # for a batch to fill, in servers that wait
_START_SECONDS = 90.0


class Server:
    """A process that answers HTTP once `with` has been entered; ended with all its children."""

    def __init__(
        self,
        command: Sequence[object],
        port: int,
        ready: bytes,
        *,
        cpu: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        status: int = 200,
    ) -> None:
        self.port = port
        self._status = status
        self._command = [str(part) for part in command]
        self._ready = ready
        self._cpu = cpu
        self._log = log
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self._folder = folder

    def __enter__(self) -> Server:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(self._cpu), *self._command],
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
            )
        until = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.__exit__(None, None, None)
                raise SystemExit(f"{self._command[0]} did not start: see {self._log}")
            time.sleep(0.05)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        group = self._process.pid
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(group, number)
                self._process.wait(10)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()

    def cpu_seconds(self) -> float:
        """Of all its processes, so far."""
        return sum(it.cpu_times().user + it.cpu_times().system for it in self._processes())

    def resident(self) -> int:
        """Bytes of all its processes that are in memory."""
        return sum(it.memory_info().rss for it in self._processes())

    def json(self, path: str, method: str = "GET", token: str = "") -> object:
        """A document from the server; RuntimeError where the status is not 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: {response.status} {text[:200]!r}")
        return json.loads(text)

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def _answers(self) -> bool:
        """Whether the first real request is answered, with 200 unless another one is expected."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(self._ready)
                return connection.recv(64).startswith(b"HTTP/1.1 %d" % self._status)
        except OSError:
            return False


def strop(
    models: Mapping[str, Path],
    ready: bytes,
    *,
    cpu: int,
    work: Path,
    options: Sequence[object] = (),
) -> Server:
    """`strop serve` with HTTP alone."""
    port = _free_port()
    command = [Path(sys.executable).with_name("strop"), "serve"]
    command += [f"{name}={path}" for name, path in models.items()]
    command += ["--http", port, "--grpc", "off", "--metrics", "off", *options]
    return Server(
        command,
        port,
        ready,
        cpu=cpu,
        log=work / "strop.log",
        environment={"STROP_CACHE": str(work / "cache"), "STROP_LEDGER": str(work / "ledger")},
    )


def bare(ready: bytes, *, cpu: int, work: Path, model: Path | None = None) -> Server:
    """The bare event loop beside this file; with a model it computes batches."""
    port = _free_port()
    command = [sys.executable, HERE / "bare.py", port, *([] if model is None else [model])]
    return Server(command, port, ready, cpu=cpu, log=work / "bare.log")


def refusing(ready: bytes, *, cpu: int, work: Path) -> Server:
    """The bare event loop, which reads requests and answers all of them with 503."""
    port = _free_port()
    command = [sys.executable, HERE / "bare.py", port, "refuse"]
    return Server(command, port, ready, cpu=cpu, log=work / "bare.log", status=503)


def rival(name: str, model: Path, ready: bytes, *, cpu: int, work: Path, venvs: Path) -> Server:
    """MLServer, LitServe or mosec, from an environment of its own, with batches of up to 32."""
    port = _free_port()
    binaries = (venvs / name / "bin").resolve()
    environment = {"PYTHONPATH": str(RIVALS), "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    folder = work / name
    folder.mkdir(exist_ok=True)
    command: list[object]
    if name == "mlserver":
        _mlserver_settings(folder, model, port)
        command = [binaries / "mlserver", "start", folder]
    elif name == "litserve":
        command = [binaries / "python", RIVALS / "litserve_app.py", model, port, BATCH, WAIT_MS]
    else:
        environment |= {"MODEL": str(model), "BATCH": str(BATCH), "WAIT": str(WAIT_MS)}
        command = [binaries / "python", RIVALS / "mosec_app.py"]
        command += ["--address", "127.0.0.1", "--port", port]
    return Server(
        command,
        port,
        ready,
        cpu=cpu,
        log=work / f"{name}.log",
        environment=environment,
        folder=folder,
    )


def path_of(name: str) -> str:
    """Where a server takes the request."""
    return {"litserve": "/predict", "mosec": "/inference"}.get(name, "/v2/models/mlp/infer")


def install(name: str, venvs: Path) -> None:
    """Make a rival's environment unless it is there."""
    folder = venvs / name
    if (folder / "bin" / "python").exists():
        return
    from importlib.metadata import version

    print(f"{name}: installing", flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    packages = [PACKAGES[name], "numpy", f"onnxruntime=={version('onnxruntime')}"]
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", *packages], check=True)


def version_of(name: str, venvs: Path) -> str:
    """The version of a rival that is installed."""
    code = f"from importlib.metadata import version; print(version('{PACKAGES[name]}'))"
    command = [venvs / name / "bin" / "python", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _mlserver_settings(folder: Path, model: Path, port: int) -> None:
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": _free_port(),
        "metrics_port": _free_port(),
        "parallel_workers": 0,  # in the server's own process: the fastest for a small model
        "debug": False,
    }
    about = {
        "name": "mlp",
        "implementation": "mlserver_app.Perceptron",
        "max_batch_size": BATCH,
        "max_batch_time": WAIT_MS / 1000,
        "parameters": {"uri": str(model)},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(about))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
