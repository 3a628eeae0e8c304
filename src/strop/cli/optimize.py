"""`strop optimize`: options to a request, a search with a progress view, a verdict."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop.cli.progress import progress_view
from strop.cli.verdict import print_verdict
from strop.errors import InputError
from strop.search import Request, parse_bytes, parse_seconds


@dataclass(frozen=True)
class Options:
    """The command's options as they were typed."""

    models: list[str]
    data: str
    within: str
    output: Path
    metric: str | None
    goal: str
    budget: str
    batch: int | None
    threads: int | None
    device: str
    max_memory: str | None
    max_p99: str | None
    price: str | None
    rate: str | None
    max_utilisation: str
    watts_per_core: str | None
    shape: list[str]
    train: str | None
    train_budget: str | None
    student: str | None
    prove: str | None
    confidence: str
    seed: int
    reader: str | None
    preprocess: str | None
    inputs: list[str]
    output_names: str | None
    engines: list[str] | None
    techniques: list[str] | None
    strategy: str
    resume: bool
    trust: bool


def run(options: Options, *, as_json: bool) -> int:
    """Search, print, and return the exit code: 0 improved, 3 nothing better."""
    return search(request_of(options), as_json=as_json)


def search(request: Request, *, as_json: bool) -> int:
    """One search with a progress view on stderr; the result on stdout."""
    from strop import api

    with progress_view(request.budget_seconds) as view:
        outcome = api.run(request, listeners=[view.hear], say=view.say)
    if as_json:
        sys.stdout.write(outcome.result.to_json(indent=1) + "\n")
    else:
        print_verdict(outcome)
    return 0 if outcome.result.status == "improved" else 3


def request_of(options: Options) -> Request:
    """What was typed as what is meant; InputError when it means nothing."""
    return Request(
        model=options.models if len(options.models) > 1 else options.models[0],
        data=options.data,
        within=options.within,
        output=options.output,
        metric=options.metric,
        goal=options.goal,  # type: ignore[arg-type]  # Request.check refuses unknown goals
        max_memory_bytes=None if options.max_memory is None else parse_bytes(options.max_memory),
        max_p99_seconds=None if options.max_p99 is None else parse_seconds(options.max_p99),
        price=options.price,
        rate=options.rate,
        max_utilisation=options.max_utilisation,
        watts_per_core=options.watts_per_core,
        batch=options.batch,
        shapes=shapes_of(options.shape),
        threads=options.threads,
        device=options.device,
        train=options.train,
        train_budget=options.train_budget,
        student=options.student,
        prove=options.prove,
        budget=options.budget,
        confidence=confidence_of(options.confidence),
        seed=options.seed,
        reader=options.reader,
        preprocess=options.preprocess,
        renames=pairs_of(options.inputs, "--input", "ids=token_ids"),
        output_names=None if options.output_names is None else options.output_names.split(","),
        engines=options.engines,
        techniques=options.techniques,
        strategy=options.strategy,
        resume=options.resume,
        trust=options.trust,
    )


def shapes_of(texts: list[str]) -> dict[str, list[int | str]] | None:
    """``ids=1x128`` as ``{"ids": [1, 128]}``; a word stands for a free dimension."""
    pairs = pairs_of(texts, "--shape", "ids=1x128")
    if not pairs:
        return None
    return {
        name: [int(dim) if dim.isdigit() else dim for dim in dims.split("x")]
        for name, dims in pairs.items()
    }


def pairs_of(texts: list[str], option: str, example: str) -> dict[str, str]:
    """``NAME=VALUE`` texts as a dict; the name may hold anything but the last ``=``."""
    pairs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value:
            raise InputError(f"{option} {text} is not NAME=VALUE", hint=f"write {option} {example}")
        pairs[name] = value
    return pairs


def confidence_of(text: str) -> float:
    """``95%`` or ``0.95``."""
    try:
        return float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise InputError(
            f"the confidence '{text}' is not a number", hint="write --confidence 95%"
        ) from None
