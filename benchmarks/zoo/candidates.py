"""What is compared: the delivered model, PyTorch eager and what the stock tools build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from entries import HERE, Entry, in_folder

from strop import data as datasets
from strop.bundle.layout import read_manifest
from strop.bundle.loader import session_spec
from strop.measure import granted_cpus
from strop.models import graph
from strop.models.module_form import ModuleForm
from strop.records import Placement, SessionSpec, Signature

DELIVERED, EAGER = "strop", "PyTorch eager"
_TIMEOUT = 1800.0


@dataclass(frozen=True)
class Tool:
    """One stock tool's script, and the packages of its own environment (None: strop's).

    Packages are installed group by group, each under a constraint that keeps the torch build
    which the first one brought: otherwise pip swaps a CPU build for gigabytes of CUDA.
    """

    name: str
    packages: tuple[tuple[str, ...], ...] | None = None

    @property
    def script(self) -> Path:
        return HERE / "tools" / f"{self.name}.py"


TOOLS = (
    Tool("onnxruntime_int8"),
    Tool("openvino_int8"),
    Tool(
        "olive_int8",
        (
            ("torch==2.13.0",),
            # Olive imports requests without asking for it.
            ("olive-ai==0.13.0", "onnx==1.23.2", "onnxruntime==1.31.1", "requests==2.34.2"),
        ),
    ),
    Tool(
        "inc_int8",
        (
            # Its last release: onnx and onnxruntime of its time, and two packages that it imports
            # without asking for them.
            (
                "onnx-neural-compressor==1.0",
                "onnx==1.16.2",
                "onnxruntime==1.19.2",
                "prettytable==3.18.0",
                "scipy==1.14.1",
            ),
        ),
    ),
)


@dataclass(frozen=True)
class Candidate:
    """One row of the table; `spec` is None where there is nothing to run, and `error` says why.

    `invariant` tells whether an example's result is the same in any batch.
    """

    name: str
    spec: SessionSpec | None
    invariant: bool = True
    note: str = ""
    error: str = ""
    versions: dict[str, str] | None = None
    build_seconds: float | None = None


def delivered(output: Path) -> Candidate:
    """The bundle that `strop optimize` has written."""
    from strop.search.builder import batch_invariant

    folder = output / "strop" / "bundle"
    manifest = read_manifest(folder)
    spec = session_spec(folder, manifest, trust=True)
    invariant = batch_invariant(manifest.recipe)
    return Candidate(DELIVERED, spec, invariant, note=str(manifest.recipe))


def eager(entry: Entry, zoo: Path, output: Path) -> Candidate:
    """The torch module itself, called operator by operator."""
    if entry.module is None:
        return Candidate(EAGER, None, error="the model is published as an ONNX file only")
    signature = original_signature(zoo)
    path = output / "eager" / "module.json"
    ModuleForm(
        spec=in_folder(zoo, entry.module),
        live=False,
        inputs=signature.input_names,
        outputs=signature.output_names,
        keys=("output",),
        digest="",
    ).write(path)
    from importlib.metadata import version

    spec = SessionSpec(
        engine="torch", artifact=str(path), signature=signature, placement=_placement()
    )
    return Candidate(EAGER, spec, versions={"torch": version("torch")})


def stock(entry: Entry, zoo: Path, output: Path) -> list[Candidate]:
    """What the stock tools have built below `output` (see :func:`build_stock`)."""
    signature = original_signature(zoo)
    found: list[Candidate] = []
    for tool in TOOLS:
        rows = json.loads((output / "stock" / tool.name / "built.json").read_text())
        for row in rows:
            spec = None
            if "artifact" in row:
                spec = SessionSpec(
                    engine=row["engine"],
                    artifact=row["artifact"],
                    signature=signature,
                    options=row["options"],
                    placement=_placement(),
                )
            found.append(
                Candidate(
                    row["name"],
                    spec,
                    row.get("invariant", True),
                    row.get("note", ""),
                    row.get("error", ""),
                    row.get("versions"),
                    row.get("seconds"),
                )
            )
    return found


def build_stock(entry: Entry, zoo: Path, output: Path, venvs: Path) -> None:
    """Run every tool's script on the model, with the rows that strop itself calibrates on."""
    calibration = output / "calibration.npz"
    output.mkdir(parents=True, exist_ok=True)
    dataset = datasets.read(
        zoo / "data.npz",
        original_signature(zoo),
        preprocess=None if entry.preprocess is None else in_folder(zoo, entry.preprocess),
        trust=True,
    )
    np.savez(calibration, **datasets.split(dataset)["calibrate"].inputs())
    for tool in TOOLS:
        folder = output / "stock" / tool.name
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "built.json").exists():
            continue
        print(f"{entry.name}: {tool.name}", flush=True)
        failure = _run_tool(tool, entry, zoo / "model.onnx", calibration, folder, venvs)
        if failure:
            name = {"olive_int8": "Olive", "inc_int8": "INC"}.get(tool.name, tool.name)
            row = {"name": name, "error": failure}
            (folder / "built.json").write_text(json.dumps([row], indent=1))


def original_signature(zoo: Path) -> Signature:
    """Names, dtypes and shapes of the model as it was published."""
    return graph.signature(graph.read(zoo / "model.onnx"))


def _run_tool(
    tool: Tool, entry: Entry, model: Path, calibration: Path, folder: Path, venvs: Path
) -> str:
    """Empty when the tool has handed its rows back, else one line on why not."""
    python, failure = _interpreter(tool, venvs)
    if failure:
        return failure
    arguments = [str(path.resolve()) for path in (tool.script, model, calibration, folder)]
    if entry.transformer:
        arguments.append("transformer")
    return _run([str(python), *arguments], folder / "log.txt")


def _interpreter(tool: Tool, venvs: Path) -> tuple[Path, str]:
    """The interpreter of the tool's own environment, made when first needed."""
    if tool.packages is None:
        return Path(sys.executable), ""
    home = venvs / tool.name
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python, ""
    if failure := _run([sys.executable, "-m", "venv", str(home)], venvs / f"{tool.name}.log"):
        return python, failure
    constraint = home / "constraint.txt"
    constraint.touch()
    for group in tool.packages:
        command = [str(python), "-m", "pip", "install", "-q", "-c", str(constraint), *group]
        if failure := _run(command, venvs / f"{tool.name}.log"):
            return python, f"cannot be installed here: {failure}"
        frozen = subprocess.run(
            [str(python), "-m", "pip", "freeze"], capture_output=True, text=True, check=True
        ).stdout
        kept = [line for line in frozen.splitlines() if line.startswith("torch==")]
        constraint.write_text("\n".join(kept))
    (home / "complete").touch()
    return python, ""


def _run(command: list[str], log: Path) -> str:
    """Run a command to its end, its output in `log`; the last line of it when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        try:
            done = subprocess.run(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT,
                env=os.environ | {"OMP_NUM_THREADS": str(len(granted_cpus()))},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"did not end within {_TIMEOUT:.0f} s"
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in log.read_text().splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit code {done.returncode}")[:240]


def _placement() -> Placement:
    return Placement(threads=len(granted_cpus()))


def row_of(candidate: Candidate) -> dict[str, Any]:
    """The part of a candidate that the results keep: no paths of this machine."""
    row: dict[str, Any] = {"name": candidate.name}
    for key in ("note", "error", "versions", "build_seconds"):
        value = getattr(candidate, key)
        if value:
            row[key] = value
    if candidate.spec is not None:
        row |= {"engine": candidate.spec.engine, "options": candidate.spec.options}
    return row
