"""A model or a bundle, made ready to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from strop.bundle.code import unpack_code
from strop.bundle.layout import MANIFEST, MODEL, locate, read_manifest, sha256, verify_files
from strop.bundle.loader import session_spec
from strop.comparison.record import Side
from strop.errors import BundleError, InputError
from strop.records import SessionSpec, Target
from strop.search import Request, intake
from strop.search.builder import batch_invariant
from strop.search.request import text_of
from strop.search.space import original_recipe
from strop.workers import Pool

_SCORING_BATCH = 32


@dataclass(frozen=True)
class Opened:
    """A side that can run.

    Attributes
    ----------
    kind
        As `Side` has it.
    digest
        Of the model's content, or of the bundle's manifest.
    payload
        A live module's pickle as uint8[n], where the engine needs one.
    batch
        How many examples a call may score: where an example's outputs depend on the rest of its
        batch, only the batch that is timed is evidence.
    """

    given: str
    kind: str
    recipe: str
    digest: str
    spec: SessionSpec
    payload: np.ndarray | None
    batch: int

    @property
    def pickled(self) -> bytes | None:
        """The payload as `strop.measure.pair` takes it."""
        return None if self.payload is None else self.payload.tobytes()

    def side(self, score: float) -> Side:
        """What is recorded of it, with its score."""
        return Side(
            given=self.given,
            kind=self.kind,
            recipe=self.recipe,
            content_digest=self.digest,
            score=score,
        )


def open_side(request: Request, given: Any, target: Target, pool: Pool, folder: Path) -> Opened:
    """Import a model into `folder`, or read a bundle's manifest and check its files.

    Raises
    ------
    InputError
        When the model cannot be read; of `request` its data and trust count.
    BundleError
        When the bundle is damaged.
    """
    folder.mkdir()
    if _is_bundle(given):
        return _open_bundle(Path(given).resolve(), target, request.trust)
    model, payload = intake.import_model(replace(request, model=given), pool, folder)
    spec = intake.original_spec(model, target)
    return Opened(
        given=text_of(given),
        kind=str(model.meta.get("original_format", "strop")),
        recipe=str(original_recipe(model, target)),
        digest=model.digest,
        spec=spec,
        payload=payload if spec.engine == "torch" else None,
        batch=target.batch if model.meta.get("quantised") else _SCORING_BATCH,
    )


def recorded_preprocess(
    given: Sequence[Any], folder: Path, *, trust: bool
) -> tuple[str | None, str]:
    """The preprocessing that the bundles among `given` record, and which of them do.

    Copied below `folder`, as ``file.py:fn``; None where none is recorded.

    Raises
    ------
    TrustError
        When there is one and `trust` is False.
    InputError
        When two bundles record different ones: their inputs are not made alike.
    """
    found: list[tuple[str, str]] = []
    for side, one in zip("AB", given, strict=False):
        if not _is_bundle(one):
            continue
        path = Path(one).resolve()
        manifest = read_manifest(path)
        if manifest.preprocess is None:
            continue
        name = manifest.preprocess.rpartition(":")[0]
        if sha256(locate(path, name)) != manifest.files.get(name):
            raise BundleError(
                f"the bundle '{path}' is damaged: '{name}' has changed since it was written",
                hint="copy or build it again",
            )
        place = folder / f"preprocess-{side.lower()}"
        place.mkdir()
        found.append((side, unpack_code(path, manifest.preprocess, place, trust=trust)))
    codes = {(_code(spec), spec.rpartition(":")[2]) for _, spec in found}
    if len(codes) > 1:
        raise InputError(
            "the two bundles record different preprocessing",
            hint="pass --preprocess file.py:fn, or --preprocess none for data that are ready",
        )
    return (found[0][1] if found else None), " and ".join(side for side, _ in found)


def _code(spec: str) -> bytes:
    return Path(spec.rpartition(":")[0]).read_bytes()


def _is_bundle(given: Any) -> bool:
    return isinstance(given, str | Path) and (Path(given) / MANIFEST).is_file()


def _open_bundle(path: Path, target: Target, trust: bool) -> Opened:
    manifest = read_manifest(path)
    spec = session_spec(path, manifest, trust=trust, threads=target.threads)
    if wrong := verify_files(path, manifest, MODEL):
        raise BundleError(
            f"the bundle '{path}' is damaged: {wrong[0]}", hint="copy or build it again"
        )
    return Opened(
        given="/".join(path.parts[-2:]),  # most bundles are called "bundle"
        kind="bundle",
        recipe=str(manifest.recipe),
        digest=manifest.digest,
        spec=spec,
        payload=None,
        batch=_SCORING_BATCH if batch_invariant(manifest.recipe) else target.batch,
    )
