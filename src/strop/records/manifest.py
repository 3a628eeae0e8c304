"""What a bundle holds, file by file."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from strop.records._base import Record
from strop.records.claim import Claim
from strop.records.evidence import Evidence
from strop.records.machine import Machine
from strop.records.recipe import Recipe
from strop.records.signature import Signature


class BatchLatency(Record):
    """One point of the latency curve that a server's batcher starts from."""

    batch: int
    p50_seconds: float
    p99_seconds: float


class Manifest(Record):
    """`manifest.json` at the top of a bundle.

    Attributes
    ----------
    form
        The form of the shipped artefact: ``onnx``, ``openvino`` or ``exported``.
    artifact
        Path of the artefact inside the bundle, with ``/``.
    files
        sha256 of every other file, by path inside the bundle.
    original_digest
        Digest of the model that was given.
    preprocess
        Path inside the bundle of the recorded preprocessing source and its function, as
        ``preprocess.py:fn``; None where there is none.
    processor
        Folder inside the bundle of the tokeniser or image processor that came with the model;
        None where there is none.
    """

    schema_version: int = Field(default=1, alias="schema")
    name: str
    created: str
    strop: str
    signature: Signature
    recipe: Recipe
    form: str
    artifact: str
    claim: Claim | None
    evidence: Evidence
    latency_curve: tuple[BatchLatency, ...] = ()
    machine: Machine
    original_digest: str
    lineage: dict[str, Any] = Field(default_factory=dict)
    preprocess: str | None = None
    processor: str | None = None
    files: dict[str, str] = Field(default_factory=dict)
