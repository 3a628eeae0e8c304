"""Conversions from the hub, ONNX, to an engine's own form."""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from strop.errors import MissingExtra, NotApplicable
from strop.models.graph import first_line
from strop.models.model import Model
from strop.models.telemetry import quiet_telemetry
from strop.records import Signature


def to_openvino(model: Model, workdir: Path) -> Model:
    """The onnx form as OpenVINO IR, weights in full precision, names preserved.

    Whoever calls it holds the result against `model` on examples (:func:`strop.models.parity`).

    Parameters
    ----------
    workdir
        An empty or new directory, which becomes the model's.

    Raises
    ------
    MissingExtra
        When OpenVINO is not installed.
    NotApplicable
        When OpenVINO cannot convert the graph; the message is shown to users.
    """
    if "onnx" not in model.forms:
        raise NotApplicable("only a model with an onnx form converts to OpenVINO")
    try:
        converted = read_network(model.forms["onnx"])
    except ImportError as error:
        raise MissingExtra("openvino", extra="openvino") from error
    except Exception as error:  # OpenVINO raises RuntimeError and its own kinds
        raise NotApplicable(
            f"OpenVINO cannot convert the graph: {conversion_reason(error)}"
        ) from error
    save_ir(converted, model.signature, workdir)
    return Model.seal(workdir, model.signature, source=model.source, meta=model.meta)


def read_network(path: Path) -> Any:
    """What OpenVINO's frontends make of a file or folder: an ``openvino.Model``.

    Raises
    ------
    ImportError
        When OpenVINO is not installed.
    Exception
        RuntimeError, and kinds of OpenVINO's own, when it cannot read it.
    """
    quiet_telemetry()
    import openvino

    with _logging_kept():
        if "," not in str(path):
            return openvino.convert_model(str(path))
        # It splits the path at commas, and takes the first part for the model.
        with tempfile.TemporaryDirectory(prefix="strop-") as folder:
            link = Path(folder) / "model"
            if "," in path.name:
                link = link.with_suffix(path.suffix)
                link.symlink_to(path.resolve())
                return openvino.convert_model(str(link))
            link.symlink_to(path.parent.resolve())  # external data lie beside the file
            return openvino.convert_model(str(link / path.name))


def save_ir(network: Any, signature: Signature, workdir: Path) -> None:
    """Write an ``openvino.Model`` as the openvino form, with the names of `signature`.

    Raises
    ------
    NotApplicable
        When it has other inputs or outputs than the signature names.
    """
    import openvino

    number_nodes(network)
    _set_names(network.inputs, signature.input_names)
    _set_names(network.outputs, signature.output_names)
    path = workdir / "openvino" / "model.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(network, str(path), compress_to_fp16=False)


@contextlib.contextmanager
def _logging_kept() -> Iterator[None]:
    """Undo what OpenVINO's converter does to the root logger, which is the user's.

    It raises its level, so that nobody's warnings are logged from then on, and adds a handler.
    """
    root = logging.getLogger()
    before = root.level, list(root.filters), list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(before[0])
        root.filters[:], root.handlers[:] = before[1:]


def _set_names(ports: Any, names: tuple[str, ...]) -> None:
    """Name each port exactly once: OpenVINO adds aliases of its own and drops a ``:0``.

    ``convert_model`` keeps the graph's order, so that place identifies a port even where an
    alias is ambiguous.
    """
    if len(ports) != len(names):
        raise NotApplicable(
            f"OpenVINO's conversion has {len(ports)} tensors where the signature names {len(names)}"
        )
    for port, name in zip(ports, names, strict=True):
        port.get_tensor().set_names({name})


def conversion_reason(error: Exception) -> str:
    """The line that says what is wrong: OpenVINO puts it below where it was noticed."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    noise = ("Exception from", "Check '", "FrontEnd API failed", "Model wasn't", "Summary:")
    telling = [line for line in lines if line and not line.startswith(noise)]
    return first_line(telling[0] if telling else error)


def number_nodes(network: Any) -> None:
    """Number the nodes that OpenVINO named itself by their place in the graph.

    It numbers them by a counter of the process (``Constant_8914``), which would give the same
    network another file, and so another digest, each time.
    """
    for place, op in enumerate(network.get_ordered_ops()):
        if re.match(r"[A-Z][A-Za-z]*_\d+(\D|$)", op.get_friendly_name()):
            op.set_friendly_name(f"{op.get_type_name()}_{place}")
