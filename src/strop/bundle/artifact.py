"""The shipped files of a model: copied, and rid of what exporters and compilers left in them."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from strop.bundle.layout import FORMS
from strop.bundle.privacy import scrub
from strop.errors import StropError

_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn")


def copy(artifact: Path, form: str, folder: Path) -> Path:
    """Copy the artefact's folder to `folder`; its main file becomes ``model.<suffix>``.

    Raises
    ------
    StropError
        When the artefact is not of that form, or cannot be read.
    """
    suffix = artifact.suffix
    if FORMS.get(suffix) != form:
        raise StropError(
            f"a bundle of the form '{form}' cannot hold '{artifact.name}'",
            hint=f"it takes {', '.join(f'{form} ({suffix})' for suffix, form in FORMS.items())}",
        )
    shutil.copytree(artifact.parent, folder, copy_function=shutil.copyfile)
    main = folder / artifact.name
    if artifact.stem != "model":
        main = main.rename(folder / f"model{suffix}")
        weights = folder / f"{artifact.stem}.bin"
        if form == "openvino" and weights.is_file():  # OpenVINO finds weights by the name alone
            weights.rename(folder / "model.bin")
    _CLEANERS[form](main)
    return main


def _clean_onnx(path: Path) -> None:
    """Strip metadata and doc strings, where dynamo's exporter writes stack traces."""
    import onnx

    from strop.models.onnx_file import strip

    proto = onnx.load(path, load_external_data=False)
    before = proto.SerializeToString(deterministic=True)
    strip(proto)
    after = proto.SerializeToString(deterministic=True)
    if after != before:
        path.write_bytes(after)


def _clean_openvino(path: Path) -> None:
    """Strip the conversion's arguments, NNCF's and the exporter's notes from the model's rt_info.

    The rt_info of single layers stays: transformations of the runtime read it.
    """
    import xml.etree.ElementTree as ElementTree

    tree = ElementTree.parse(path)
    net = tree.getroot()
    for notes in net.findall("rt_info"):
        for name in ("conversion_parameters", "nncf", "framework"):
            for child in notes.findall(name):
                notes.remove(child)
    for element in net.iter():
        for name, value in element.attrib.items():
            if "/" in value:
                element.set(name, scrub(value))
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _clean_exported(path: Path) -> None:
    """Strip the stack traces from the graph that the archive of an exported program holds."""
    aside = path.with_suffix(".tmp")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(aside, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("/models/model.json"):
                content = json.dumps(_without_notes(json.loads(content))).encode()
            new.writestr(zipfile.ZipInfo(entry.filename), content)  # stored, as torch wants it
    aside.replace(path)


def _without_notes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_notes(it) for key, it in value.items() if key not in _NOTES}
    return [_without_notes(item) for item in value] if isinstance(value, list) else value


def _leave(path: Path) -> None:
    """Compiled without paths and symbols for debuggers, or the user's own file."""


_CLEANERS: dict[str, Callable[[Path], None]] = {
    "onnx": _clean_onnx,
    "openvino": _clean_openvino,
    "exported": _clean_exported,
    "inductor": _leave,
    "tflite": _leave,
    "executorch": _leave,
}
