"""Where things lie in a bundle, and the checks before any of its paths is followed."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path, PurePosixPath

from strop.errors import BundleError, InputError, StropError
from strop.records import Manifest

MANIFEST = "manifest.json"
MODEL = "model"
RESULT = "evidence/result.json"
TRIALS = "evidence/trials.jsonl"
SCORES = "evidence/scores.npz"
TIMINGS = "evidence/timings.json"
SAMPLE = "evidence/sample.npz"
PREPROCESS = "preprocess.py"
PROCESSOR = "processor"
METRIC = "metric.py"
README = "README.md"
RUNNER = "run.py"

FORMS = {
    ".onnx": "onnx",
    ".xml": "openvino",
    ".pt2": "exported",
    ".so": "inductor",
    ".tflite": "tflite",
    ".pte": "executorch",
}
"""The form of an artefact by its suffix: nothing else is shipped, and nothing else is loaded."""
CODE = {"exported": "an exported program", "inductor": "a compiled library"}
"""Forms that may run code when they are loaded, and what they are called."""

_SCHEMA = 1


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of the bundle at `path`, its paths checked but no file of it opened.

    Raises
    ------
    InputError
        When there is no bundle at `path`.
    BundleError
        When the manifest is damaged, of a newer schema, or names paths outside the bundle.
    """
    folder = Path(path)
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise InputError(
            f"'{folder}' is not a bundle: its {MANIFEST} cannot be read ({error.strerror})",
            hint="name the folder that strop optimize has written (OUTPUT/bundle)",
        ) from error
    try:
        document = json.loads(content)
        schema = document["schema"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise BundleError(f"the {MANIFEST} of '{folder}' is damaged: {error}") from error
    if isinstance(schema, int) and schema > _SCHEMA:
        raise BundleError(
            f"the bundle '{folder}' has schema {schema}, and this strop reads up to {_SCHEMA}",
            hint="upgrade strop",
        )
    try:
        manifest = Manifest.from_dict(document)
    except StropError as error:
        raise BundleError(f"the {MANIFEST} of '{folder}' is damaged: {error.message}") from error
    _check(manifest)
    return manifest


def locate(folder: Path, name: str) -> Path:
    """The plain file `name` in a bundle; no symbolic link leads to it.

    Raises
    ------
    BundleError
        When it is missing, no plain file, or reached through a link.
    """
    path = folder
    for part in _parts(name):
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            raise BundleError(f"'{name}' is missing from the bundle ({error.strerror})") from error
        if stat.S_ISLNK(mode):
            raise BundleError(
                f"'{name}' in the bundle is reached through a symbolic link",
                hint="copy the bundle with the files themselves (cp -rL)",
            )
    if not stat.S_ISREG(path.stat().st_mode):
        raise BundleError(f"'{name}' in the bundle is not a plain file")
    return path


def listing(folder: Path, below: str = "") -> set[str]:
    """The paths of all entries other than folders in a bundle, with ``/``, links included."""
    entries = (folder / below).rglob("*")
    found = (entry for entry in entries if entry.is_symlink() or not entry.is_dir())
    return {entry.relative_to(folder).as_posix() for entry in found} - {MANIFEST}


def verify_files(folder: Path, manifest: Manifest, below: str = "") -> list[str]:
    """What is wrong with the files below a folder of the bundle, one line each.

    Files must be those that the manifest lists, with the digests that it lists.
    """
    prefix = f"{below}/" if below else ""
    listed = {name: it for name, it in manifest.files.items() if name.startswith(prefix)}
    wrong = []
    for name, expected in sorted(listed.items()):
        try:
            found = sha256(locate(folder, name))
        except (BundleError, OSError) as error:
            wrong.append(str(error))
            continue
        if found != expected:
            wrong.append(f"'{name}' has changed since the bundle was written")
    unlisted = sorted(listing(folder, below) - set(listed) - _caches(folder))
    return wrong + [f"'{name}' is not listed in the manifest" for name in unlisted]


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _caches(folder: Path) -> set[str]:
    """What Python leaves beside ``preprocess.py`` when users import it; strop never reads it."""
    return {path.relative_to(folder).as_posix() for path in folder.glob("__pycache__/*.pyc")}


def _check(manifest: Manifest) -> None:
    for name in (manifest.artifact, *manifest.files):
        _parts(name)
    if manifest.artifact not in manifest.files:
        raise BundleError(f"the artefact '{manifest.artifact}' is not among the manifest's files")
    if not manifest.artifact.startswith(f"{MODEL}/"):
        raise BundleError(f"the artefact '{manifest.artifact}' does not lie in {MODEL}/")
    # What the file is decides whether it is code, not what the manifest says it is.
    if FORMS.get(PurePosixPath(manifest.artifact).suffix) != manifest.form:
        raise BundleError(
            f"the artefact '{manifest.artifact}' is not of the form '{manifest.form}'"
        )


def _parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    strange = not name or "\\" in name or "\0" in name or ":" in name.partition("/")[0]
    if strange or path.is_absolute() or ".." in path.parts or path.as_posix() != name:
        raise BundleError(f"the manifest names '{name}', which is no path inside a bundle")
    return path.parts
