"""A trained network on disk: an immutable directory that holds one or more forms of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strop.errors import ModelError, StropError
from strop.records import Signature

FORMS = {
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "exported": "model.pt2",
    "module": "module.json",
    "tflite": "model.tflite",
}
"""The main file of each form, inside the folder named after the form."""


@dataclass(frozen=True)
class ModuleSource:
    """Where a live `nn.Module` comes from.

    Attributes
    ----------
    spec
        ``file.py:callable`` or a file that holds a module, with an absolute path; None for a
        module made in Python.
    payload
        The module pickled by cloudpickle, for a module made in Python. It travels over a pipe to
        strop's own children and is never written to disk.
    """

    spec: str | None = None
    payload: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Model:
    """A network with named, typed inputs and outputs.

    The directory holds ``model.json`` and one folder a form (``onnx/model.onnx``,
    ``openvino/model.xml``, ``exported/model.pt2``). Nothing in it is ever changed: a technique
    writes a new directory.

    Attributes
    ----------
    path
        The directory; absolute.
    signature
        What goes in and what comes out, names exactly as the model spells them.
    digest
        sha256 over the forms' files, by relative path: equal content, equal digest.
    forms
        The main file of each form.
    source
        The module itself, for techniques that train and for the eager baseline.
    meta
        Plain facts that importers and techniques leave for later readers: ``quantised``,
        ``producer``, ``original_format`` …
    """

    path: Path
    signature: Signature
    digest: str
    forms: Mapping[str, Path]
    source: ModuleSource | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def seal(
        cls,
        path: Path,
        signature: Signature,
        *,
        source: ModuleSource | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Model:
        """Make the directory `path`, whose form folders are already written, a model.

        Raises
        ------
        ModelError
            When the directory holds none of the known forms.
        """
        path = path.resolve()
        forms = {name: path / name / main for name, main in FORMS.items()}
        forms = {name: main for name, main in forms.items() if main.is_file()}
        if not forms:
            raise ModelError(f"'{path}' holds no model in a known form ({', '.join(FORMS)})")
        digest = digest_of_tree(path)
        document = {
            "schema": 1,
            "signature": signature.to_dict(),
            "digest": digest,
            "meta": dict(meta or {}),
        }
        (path / "model.json").write_text(json.dumps(document, indent=1, ensure_ascii=False))
        return cls(path, signature, digest, forms, source, dict(meta or {}))

    @classmethod
    def open(cls, path: Path, *, source: ModuleSource | None = None) -> Model:
        """The model in a directory that :meth:`seal` has made.

        It trusts that directory: what comes from elsewhere goes through :func:`strop.models.load`.

        Raises
        ------
        ModelError
            When there is no such directory, or its ``model.json`` is damaged.
        """
        path = path.resolve()
        try:
            document = json.loads((path / "model.json").read_bytes())
            signature = Signature.from_dict(document["signature"])
            digest, meta = str(document["digest"]), dict(document["meta"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError, StropError) as error:
            raise ModelError(f"'{path}' is not a strop model directory: {error}") from error
        forms = {name: path / name / main for name, main in FORMS.items()}
        return cls(
            path,
            signature,
            digest,
            {name: main for name, main in forms.items() if main.is_file()},
            source,
            meta,
        )

    def with_source(self, source: ModuleSource | None) -> Model:
        """The same model with the module it came from attached."""
        return dataclasses.replace(self, source=source)


def digest_of_tree(path: Path) -> str:
    """sha256 over the relative paths and contents of all files below `path`.

    ``model.json`` itself is left out, so that the digest can be written into it.
    """
    total = hashlib.sha256()
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        name = file.relative_to(path).as_posix()
        if name == "model.json":
            continue
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()
