"""The original, opened again in the runtime that it was compared in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from strop.bundle.layout import RESULT, locate
from strop.bundle.sample import Sample
from strop.errors import StropError
from strop.records import Deployment, Manifest, Placement, Recipe, SessionSpec


@dataclass(frozen=True)
class Original:
    """The model that was given.

    Attributes
    ----------
    digest
        Of the model as it was imported; the manifest records the same of the one compared.
    """

    digest: str
    spec: SessionSpec


def open_original(
    source: str | Path,
    manifest: Manifest,
    sample: Sample,
    folder: Path,
    placement: Placement,
    scratch: Path,
    *,
    trust: bool,
) -> Original:
    """Import `source` and build it for its native runtime, below `scratch`.

    Raises
    ------
    ModelError, TrustError
        When it cannot be imported.
    NotApplicable
        When its native runtime cannot run it.
    """
    from strop import engines, models

    (scratch / "original").mkdir()
    (scratch / "native").mkdir()
    model = models.load(
        source,
        workdir=scratch / "original",
        examples=sample.inputs,
        output_names=manifest.signature.output_names if ".py:" in str(source) else None,
        trust=trust,
    )
    deploy = _deployment(folder)
    artifact = engines.get(deploy.engine).build(model, deploy.options, scratch / "native")
    spec = SessionSpec(
        engine=deploy.engine,
        artifact=str(artifact),
        signature=model.signature,
        options=deploy.options,
        placement=placement,
    )
    return Original(model.digest, spec)


def _deployment(folder: Path) -> Deployment:
    """What the original ran on, as the result of the search records it."""
    try:
        result = json.loads(locate(folder, RESULT).read_bytes())
        return Recipe.from_dict(result["original"]["recipe"]).deploy
    except (ValueError, KeyError, TypeError) as error:
        raise StropError("the bundle does not say what the original ran on") from error
