"""What goes into a bundle, before it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strop.records import BatchLatency, Claim, Evidence, Machine, Recipe, Signature


@dataclass(frozen=True)
class Contents:
    """A delivered model with all that is known of it.

    Attributes
    ----------
    name
        What the model is called (``resnet``).
    artifact
        The main file as `Engine.build` wrote it; everything in its folder ships.
    form
        ``onnx``, ``openvino``, ``exported``, ``inductor``, ``tflite`` or ``executorch``.
    original_digest
        Digest of the model that was given.
    result
        The `strop.records.Result` document, for ``evidence/result.json``.
    scores
        Arrays by example, for ``evidence/scores.npz``: ``prove/reference``, ``prove/delivered``,
        ``prove/errors``, ``prove/changed``, ``prove/rows``, ``prove/groups``, ``prove/keys``,
        ``search/drops``, ``search/groups``.
    timings
        Raw launches by pair name (``original/delivered``): ``batch`` and ``b_batch``, and per
        launch ``quads``, ``a_seconds``, ``b_seconds``, ``a_used``, ``b_used``.
    trials
        `Trial` documents, one a line of ``evidence/trials.jsonl``.
    sample_inputs, sample_outputs
        A few examples and the outputs that the *original* gives for them, rows first.
    preprocess
        ``file.py:fn``; the file is copied.
    processor
        Folder of the tokeniser or image processor that came with the model; copied as it is.
    """

    name: str
    artifact: Path
    form: str
    signature: Signature
    recipe: Recipe
    claim: Claim | None
    evidence: Evidence
    latency_curve: tuple[BatchLatency, ...]
    machine: Machine
    original_digest: str
    lineage: dict[str, Any]
    result: dict[str, Any]
    scores: Mapping[str, np.ndarray]
    timings: Mapping[str, Any]
    trials: Sequence[dict[str, Any]]
    sample_inputs: Mapping[str, np.ndarray]
    sample_outputs: Mapping[str, np.ndarray]
    preprocess: str | None = None
    processor: Path | None = None
