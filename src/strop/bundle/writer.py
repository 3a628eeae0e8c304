"""Writing a bundle: aside, synced, then renamed, so that there is never half of one."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from strop.bundle import artifact, readme, runner
from strop.bundle.contents import Contents
from strop.bundle.layout import (
    MANIFEST,
    METRIC,
    MODEL,
    PREPROCESS,
    PROCESSOR,
    README,
    RESULT,
    RUNNER,
    SAMPLE,
    SCORES,
    TIMINGS,
    TRIALS,
    listing,
    sha256,
)
from strop.bundle.privacy import scrub
from strop.bundle.sample import cap, pack, write_arrays
from strop.errors import InputError
from strop.records import Manifest, canonical_json


def write(folder: Path, contents: Contents) -> Manifest:
    """Write a bundle to `folder`, in place of an older bundle there.

    Everything is written to a folder beside it and synced first: whatever happens meanwhile, an
    older bundle stays whole. The same contents give the same files, ``created`` in the manifest
    and the date in the README apart.

    Raises
    ------
    InputError
        When `folder` holds something that is no bundle, or the disk is full or read-only.
    """
    folder = folder.absolute()
    _refuse_foreign(folder)
    aside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        aside.chmod(0o777 & ~_umask())  # mkdtemp lets nobody else in
        manifest = _fill(aside, contents)
        _sync(aside)
        _swap(aside, folder)
    except OSError as error:
        raise InputError(
            f"the bundle '{folder}' cannot be written: {error.strerror or error}",
            hint="make room, or name another folder",
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _fill(folder: Path, contents: Contents) -> Manifest:
    main = artifact.copy(contents.artifact, contents.form, folder / MODEL)
    name = main.relative_to(folder).as_posix()
    (folder / "evidence").mkdir()
    _write_json(folder / RESULT, contents.result)
    lines = [canonical_json(scrub(trial)) + "\n" for trial in contents.trials]
    (folder / TRIALS).write_text("".join(lines), encoding="utf-8")
    write_arrays(folder / SCORES, contents.scores)
    (folder / TIMINGS).write_text(canonical_json(dict(contents.timings)), encoding="utf-8")
    write_arrays(folder / SAMPLE, pack(cap(contents.sample_inputs, contents.sample_outputs)))
    (folder / RUNNER).write_text(
        runner.script(contents.form, name, contents.signature, contents.recipe), encoding="utf-8"
    )
    if contents.processor is not None:
        shutil.copytree(contents.processor, folder / PROCESSOR)
    manifest = Manifest(
        name=contents.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        strop=metadata.version("strop"),
        signature=contents.signature,
        recipe=contents.recipe,
        form=contents.form,
        artifact=name,
        claim=contents.claim,
        evidence=contents.evidence,
        latency_curve=contents.latency_curve,
        machine=contents.machine,
        original_digest=contents.original_digest,
        lineage=_lineage(folder, contents.lineage),
        preprocess=_copy_code(folder, contents.preprocess, PREPROCESS),
        processor=None if contents.processor is None else PROCESSOR,
    )
    (folder / README).write_text(readme.text(manifest), encoding="utf-8")
    files = {path: sha256(folder / path) for path in sorted(listing(folder))}
    manifest = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(manifest.to_json(indent=1) + "\n", encoding="utf-8")
    return manifest


def _lineage(folder: Path, lineage: dict[str, Any]) -> dict[str, Any]:
    """The lineage without this machine's paths; a metric from a file of the user's comes along."""
    metric = lineage.get("metric")
    if isinstance(metric, dict) and "function" in metric:
        metric = {**metric, "function": _copy_code(folder, metric["function"], METRIC)}
        lineage = {**lineage, "metric": metric}
    scrubbed: dict[str, Any] = scrub(lineage)
    return scrubbed


def _copy_code(folder: Path, spec: str | None, name: str) -> str | None:
    """Copy the file of ``file.py:fn`` into the bundle; return ``name:fn``."""
    if spec is None:
        return None
    path, _, function = spec.rpartition(":")
    try:
        shutil.copyfile(path, folder / name)
    except FileNotFoundError as error:
        raise InputError(f"the file '{path}' is gone", hint="put it back") from error
    return f"{name}:{function}"


def _write_json(path: Path, values: Any) -> None:
    text = json.dumps(scrub(values), indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder", hint="name another one for the bundle")
    if any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise InputError(
            f"'{folder}' holds files that are no bundle", hint="name an empty or a new folder"
        )


def _swap(aside: Path, folder: Path) -> None:
    """Put `aside` where `folder` is; two renames, as no portable call exchanges folders."""
    if not folder.exists():
        aside.rename(folder)
    else:
        old = aside.with_name(f"{aside.name}-old")
        folder.rename(old)
        try:
            aside.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync_one(folder.parent)


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
