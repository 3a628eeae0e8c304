"""Made-up results that look like real ones: a search over a small image classifier."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strop.records import (
    Candidate,
    Claim,
    DataSummary,
    Deployment,
    Evidence,
    Interval,
    Latency,
    Machine,
    Memory,
    NearMiss,
    Quality,
    Recipe,
    Result,
    Signature,
    Speedup,
    Step,
    Target,
    TensorSpec,
    Trial,
)

MACHINE = Machine(
    cpu="Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
    architecture="x86_64",
    platform="Linux 6.1",
    isa=("avx2", "avx512f", "avx512_vnni", "amx_int8"),
    cpus=(0, 1, 2, 3),
    physical_cores=2,
    memory_bytes=16 * 2**30,
    python="3.11.11",
    packages={"numpy": "2.3.4", "onnxruntime": "1.27.0", "openvino": "2026.2.0"},
)
SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=("n", 1, 28, 28)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=("n", 10)),),
)
TOLERANCE = 0.01
PROVE = 4_200


def recipe(engine: str, *steps: Step, **options: Any) -> Recipe:
    return Recipe(steps=steps, deploy=Deployment(engine=engine, options=options))


ORIGINAL = recipe("onnxruntime")
EQUIVALENT = recipe("openvino", Step(technique="cleanup"), precision="f32")
CHOSEN = recipe(
    "openvino", Step(technique="int8-static", params={"method": "minmax", "per_channel": True})
)


def quality(drop: float, n: int = 1_800, role: str = "search", kind: str = "binary") -> Quality:
    spread = 1.96 * math.sqrt((abs(drop) + 0.006) / n)
    changed = round(n * (abs(drop) + 0.006)) if drop else 0
    lost = round((changed + n * drop) / 2)
    return Quality(
        metric="accuracy",
        kind=kind,
        role=role,
        n=n,
        groups=n,
        reference=0.9262,
        candidate=0.9262 - drop,
        drop=Interval(estimate=drop, low=drop - spread, high=drop + spread),
        lost=lost,
        won=changed - lost,
        changed=changed,
        max_relative_error=0.031 if drop else 2.4e-6,
    )


def interval(value: float, wide: float = 0.02) -> Interval:
    return Interval(estimate=value, low=value * (1 - wide), high=value * (1 + wide))


def latency(p50: float) -> Latency:
    return Latency(
        batch=1,
        threads=4,
        p50=interval(p50, 0.008),
        p90=interval(p50 * 1.09, 0.015),
        p99=Interval(estimate=p50 * 1.42, low=p50 * 1.3, high=p50 * 1.7),
        throughput=1 / p50,
        launches=10,
        calls=4_812,
    )


def speedup(against: str, value: float, wide: float = 0.02) -> Speedup:
    return Speedup(against=against, batch=1, ratio=interval(value, wide), launches=10)


def trials(chosen: int | None = 9) -> tuple[Trial, ...]:
    """Two dozen trials over three engines, every status among them."""

    def one(
        number: int,
        made: Recipe,
        status: str,
        drop: float | None,
        speed: float | None,
        stage: str = "time",
        reason: str = "",
        megabytes: float = 44.7,
    ) -> Trial:
        exact = drop == 0.0
        few = stage == "screen"
        return Trial(
            number=number,
            recipe=made,
            status="chosen" if number == chosen else status,
            stage=stage,
            reason=reason,
            equivalent=exact,
            evidence=Evidence(
                search_quality=None if drop is None else quality(drop, 128 if few else 1_800),
                speedups=() if speed is None else (speedup("anchor", speed, 0.03),),
                memory=None
                if speed is None
                else Memory(
                    peak=int(megabytes * 4e6),
                    weights=int(megabytes * 9e5),
                    file=int(megabytes * 1e6),
                ),
            ),
            seconds={"build": 0.4 + number % 5, "evaluate": 1.1, "time": 2.5 if speed else 0.0},
        )

    int8 = "int8-static"
    made = [
        (ORIGINAL, "front", 0.0, 1.0),
        (recipe("onnxruntime", Step(technique="cleanup"), graph="all"), "front", 0.0, 1.08),
        (EQUIVALENT, "front", 0.0, 1.52),
        (recipe("onnxruntime", Step(technique="fp16")), "alive", 0.0002, 0.86),
        (recipe("openvino", Step(technique="fp16"), precision="bf16"), "front", 0.0004, 1.98),
    ]
    found = [one(number, *given) for number, given in enumerate(made)]
    for number, (method, per_channel, engine, drop, speed, status) in enumerate(
        [
            ("minmax", False, "onnxruntime", 0.0119, 2.05, "alive"),
            ("entropy", False, "onnxruntime", 0.0091, 2.02, "alive"),
            ("minmax", True, "onnxruntime", 0.0043, 1.95, "alive"),
            ("percentile", True, "onnxruntime", 0.0036, 1.97, "alive"),
            ("minmax", True, "openvino", 0.0017, 2.91, "front"),
            ("entropy", True, "openvino", 0.0012, 2.83, "front"),
            ("percentile", True, "openvino", 0.0029, 2.88, "alive"),
            ("minmax", False, "openvino", 0.0156, 3.08, "front"),
            ("mse", False, "openvino", 0.0072, 3.02, "front"),
        ],
        start=5,
    ):
        step = Step(technique=int8, params={"method": method, "per_channel": per_channel})
        built = CHOSEN if number == 9 else recipe(engine, step, graph="all")
        found.append(one(number, built, status, drop, speed, megabytes=11.6))
    found.append(
        one(
            14,
            recipe("openvino", Step(technique="int8-nncf", params={"preset": "performance"})),
            "dropped",
            0.062,
            None,
            "screen",
            "loses 6.20% on 128 examples: outside 1.00%",
        )
    )
    found.append(
        one(
            15,
            recipe("onnxruntime", Step(technique="int8-dynamic")),
            "dropped",
            0.0245,
            None,
            "evaluate",
            "loses 2.45% on 1800 examples: outside 1.00%",
        )
    )
    found.append(
        one(
            16,
            recipe("onnxruntime", Step(technique=int8, params={"symmetric": True})),
            "dropped",
            None,
            None,
            "build",
            "builds to the same artefact as #7",
        )
    )
    found.append(
        one(
            17,
            recipe("torch", Step(technique="fp16")),
            "failed",
            None,
            None,
            "build",
            "the engine has no kernel for Resize-19 in float16 (node '/up/Resize')",
        )
    )
    found.append(
        one(
            18,
            recipe("torch"),
            "dropped",
            0.0,
            0.71,
            "time",
            "takes 9.31 ms: over --max-p99",
        )
    )
    return tuple(found)


def improved(**changes: Any) -> Result:
    """2.9× faster at a proven point of accuracy."""
    original = Evidence(
        search_quality=quality(0.0),
        latency=(latency(6.64e-3),),
        memory=Memory(peak=182_300_000, weights=42_600_000, file=44_700_000),
    )
    equivalent = Evidence(
        search_quality=quality(0.0),
        prove_quality=quality(0.0, PROVE, "prove"),
        latency=(latency(4.37e-3),),
        memory=Memory(peak=141_000_000, weights=42_600_000, file=44_800_000),
    )
    delivered = Evidence(
        search_quality=quality(0.0017),
        prove_quality=quality(0.0019, PROVE, "prove"),
        latency=(latency(2.31e-3),),
        speedups=(speedup("equivalent", 1.89), speedup("original", 2.87)),
        memory=Memory(peak=96_400_000, weights=10_700_000, file=11_600_000),
        operators_before=124,
        operators_after=71,
    )
    values: dict[str, Any] = {
        "status": "improved",
        "reason": "",
        "claim": Claim(
            kind="proven",
            metric="accuracy",
            tolerance=TOLERANCE,
            confidence=0.95,
            method="exact trinomial",
            upper=0.0054,
            p=3.1e-9,
            n=PROVE,
            groups=PROVE,
            run=1,
            proof_set="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            isa=MACHINE.isa,
        ),
        "model": "models/fashion_resnet.onnx",
        "signature": SIGNATURE,
        "data": DataSummary(
            source="data/fashion.npz",
            content_digest="2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
            examples=6_256,
            roles={"calibrate": 256, "search": 1_800, "prove": PROVE},
            metric="accuracy",
        ),
        "target": Target(machine=MACHINE, max_p99_seconds=0.008),
        "machine": MACHINE,
        "tolerance": TOLERANCE,
        "confidence": 0.95,
        "original": Candidate(recipe=ORIGINAL, text=str(ORIGINAL), evidence=original),
        "equivalent": Candidate(recipe=EQUIVALENT, text=str(EQUIVALENT), evidence=equivalent),
        "delivered": Candidate(recipe=CHOSEN, text=str(CHOSEN), evidence=delivered),
        "pareto": (0, 1, 2, 4, 9, 10, 12, 13),
        "trials": trials(),
        "warnings": ("12 examples appear twice; the copies were kept in one group",),
        "seconds": {
            "import": 3.2,
            "build": 61.4,
            "evaluate": 88.0,
            "time": 154.3,
            "prove": 41.9,
            "own": 6.1,
            "total": 354.9,
        },
        "budget_seconds": 600.0,
    }
    return Result(**{**values, **changes})


def unimproved(**changes: Any) -> Result:
    """Nothing could be proven: the fastest equivalent is delivered."""
    base = improved()
    evidence = base.equivalent.evidence.model_copy(
        update={"speedups": (speedup("original", 1.52),)}
    )
    delivered = base.equivalent.model_copy(update={"evidence": evidence})
    claim = Claim(
        kind="equivalent",
        metric="accuracy",
        method="outputs compared",
        n=1_800 + PROVE,
        groups=1_800 + PROVE,
        isa=MACHINE.isa,
    )
    miss = NearMiss(
        recipe=CHOSEN,
        text=str(CHOSEN),
        speedup=1.91,
        drop=0.0085,
        reason="not proven on the proof set; more examples, or a wider tolerance, may",
    )
    values: dict[str, Any] = {
        "status": "unimproved",
        "reason": "too few examples to prove anything but equivalence",
        "claim": claim,
        "equivalent": delivered,
        "delivered": delivered,
        "near_miss": miss,
        "trials": trials(chosen=2),
    }
    return improved(**{**values, **changes})


def pair(left: float, right: float, *, launches: int = 10, seed: int = 0) -> dict[str, Any]:
    """Raw timings of one pair as `timings.json` holds them, medians in seconds."""
    rng = np.random.default_rng(seed)

    def seconds(median: float, calls: int) -> list[float]:
        noise = rng.gamma(2.0, 0.02, calls) + np.where(
            rng.random(calls) < 0.02, rng.random(calls), 0
        )
        return (median * (0.97 + noise)).tolist()

    quads, lefts, rights = [], [], []
    for _ in range(launches):
        off = np.exp(rng.normal(0, 0.02, 2))
        lefts.append(seconds(left * off[0], 90))
        rights.append(seconds(right * off[1], 210))
        a, b = left * off[0], right * off[1]
        quads.append((np.array([[a, b, b, a]] * 4) * np.exp(rng.normal(0, 0.004, (4, 4)))).tolist())
    return {
        "batch": 1,
        "shortened": False,
        "settled": True,
        "quads": quads,
        "a_seconds": lefts,
        "b_seconds": rights,
    }


def timings() -> dict[str, Any]:
    return {
        "equivalent/delivered": pair(4.37e-3, 2.31e-3),
        "original/delivered": pair(6.64e-3, 2.31e-3, seed=1),
    }


def scores(result: Result) -> dict[str, np.ndarray]:
    """Per-example 0/1 scores that agree with the delivered one's quality on *prove*."""
    found = result.delivered.evidence.prove_quality
    assert found is not None
    before = np.zeros(found.n)
    before[: round(found.reference * found.n)] = 1
    after = before.copy()
    after[: found.lost] = 0
    if found.won:
        after[-found.won :] = 1
    return {"prove/reference": before, "prove/delivered": after}


def folder(
    path: Path,
    result: Result,
    *,
    raw: Mapping[str, Any] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """An output folder as a search leaves it."""
    evidence = path / result.bundle / "evidence"
    evidence.mkdir(parents=True)
    (path / "result.json").write_text(result.to_json(indent=1))
    (evidence / "result.json").write_text(result.to_json())
    if raw is not None:
        (evidence / "timings.json").write_text(json.dumps(raw))
    if arrays is not None:
        np.savez(evidence / "scores.npz", **arrays)
    return path
