"""Evidence order: what worked on the zoo first, then what this search itself has taught.

Two Bayesian linear models, one of log time and one of quality lost, share a feature per step,
parameter value, engine, engine option and technique–engine pair. Their prior is the evidence
from the zoo (`PRIOR`, with its source in docs/search.md); every trial sharpens them. The next
recipe is the one with the most expected improvement a second of search (Snoek et al., NeurIPS
2012, "expected improvement per second"), weighted by the chance that it stays within tolerance
(Gardner et al., ICML 2014).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from strop.records import Recipe, Trial
from strop.search.objective import likely_bound, may_hold
from strop.search.space import JointSpace
from strop.search.strategies._base import Strategy

PRIOR: dict[str, tuple[float, float, float]] = {
    # feature: (log time, quality lost in tolerances, seconds to build), relative to the
    # original's own graph on ONNX Runtime; the fallback for an unknown feature is no effect.
    "torch": (1.2, 0.0, 2.0),
    "openvino": (0.0, 0.0, 2.0),
    "openvino.precision=bf16": (-0.5, 0.5, 2.0),
    "openvino.precision=f16": (-0.3, 0.2, 2.0),
    "fp16": (0.1, 0.2, 2.0),
    "bf16-mixed": (0.1, -0.3, 6.0),
    "int8-dynamic": (0.6, 1.0, 4.0),
    "int8-dynamic@openvino": (0.2, 1.0, 4.0),
    "int8-static": (-0.75, 0.7, 8.0),
    "int8-nncf": (-0.9, 0.8, 6.0),
    "int8-static.keep_float=0.0": (-0.1, 0.3, 0.0),
    "int8-static.keep_float=0.05": (0.0, 0.0, 8.0),
    "int8-static.keep_float=0.1": (0.05, -0.1, 8.0),
    "int8-static.keep_float=0.2": (0.15, -0.2, 8.0),
    "int8-static.keep_float=0.4": (0.3, -0.3, 8.0),
    "int8-static.calibrator=entropy": (0.0, 0.5, 0.0),
    "int8-static.rounding=adaround": (0.0, -0.05, 30.0),
    "int8-static.equalise=scale": (0.0, 0.1, 2.0),
    "weight-only": (-0.3, 0.4, 6.0),
    "weight-only.bits=6.0": (0.0, 0.5, 20.0),
    "weight-only.bits=4.0": (0.0, 1.5, 15.0),
    "cleanup": (-0.03, 0.0, 0.5),
    "onnxruntime.graph=extended": (0.2, 0.0, 0.0),
    "onnxruntime.spinning=False": (0.1, 0.0, 0.0),
    # Training has seconds of its own (`strop.search.purse`): here is what else a step takes.
    "distil": (-0.2, 0.1, 20.0),
    "distil.student=narrow-0.25": (-1.1, 0.6, 0.0),
    "distil.student=narrow-0.5": (-0.5, 0.2, 0.0),
    "distil.student=shallow-0.5": (-0.2, 0.3, 0.0),
    "distil.student=shallow-0.67": (-0.1, 1.5, 0.0),
    "distil.student=same": (0.0, -0.4, 0.0),
    "prune": (-0.7, 0.4, 20.0),
    "merge-tokens": (-0.05, 0.7, 5.0),
    "merge-tokens.percent=15": (-0.1, 0.6, 0.0),
    "merge-tokens.blocks=first": (0.05, -0.6, 0.0),
    "merge-tokens.percent=30": (-0.15, 1.4, 0.0),
    "merge-tokens.percent=20": (-0.15, 1.2, 0.0),
    "qat": (-0.8, 0.4, 20.0),
}
_SAME = {"qat.keep_float": "int8-static.keep_float"}
"""Parameters that mean the same in a technique that goes on from what another writes."""
_COMPILE = {"inductor": 15.0}
"""Seconds that an engine's build takes beside the steps, where it compiles machine code."""
_NOISE_TIME = 0.08
_NOISE_LOSS = 0.5
_WEIGHT_SD = 0.35
_LOSS_SD = 1.0
_PAIR_LOSS_SD = 0.3
"""What steps do to a network's answers hangs little on the engine: most of a loss is their own."""
_KEPT = ".keep_float="
"""Features of which the prior tells the part of a loss that is won back, of one of a tolerance."""
_WORST_LOSS = 6.0
_TRIES = 2
"""Failures of an engine with the same options, and no success, after which it comes last."""
_START, _START_SD = "start=", 2.0
"""Another network may be several times faster and lose several tolerances, or neither."""


class EvidenceOrder(Strategy):
    """Expected feasible improvement per second, under the zoo's prior."""

    name = "evidence"

    def propose(
        self, space: JointSpace, history: Sequence[Trial], *, tolerance: float, seed: int
    ) -> Recipe | None:
        left = _hopeful(space.untried(history), history, tolerance)
        if not left:
            return None
        opening = _opening(space, left) or _first_of_start(left, history)
        if opening is not None:
            return opening
        names: dict[str, int] = {}
        for recipe in [*left, *(trial.recipe for trial in history)]:
            for feature in _features(recipe):
                names.setdefault(feature, len(names))
        time_mean, time_cov = _posterior(history, names, "time", tolerance)
        loss_mean, loss_cov = _posterior(history, names, "loss", tolerance)
        best = min(
            (
                value
                for trial in history
                if (value := _log_time(trial)) is not None
                and trial.status != "failed"
                and may_hold(trial, tolerance)
            ),
            default=0.0,
        )
        judging, scores = _judging_seconds(history), []
        for recipe in left:
            x = _vector(recipe, names)
            mean, sd = float(x @ time_mean), math.sqrt(float(x @ time_cov @ x) + _NOISE_TIME**2)
            gain = _expected_improvement(best, mean, sd)
            if space.is_exact(recipe):
                feasible = 1.0
            else:
                loss = float(x @ loss_mean)
                spread = math.sqrt(float(x @ loss_cov @ x) + _NOISE_LOSS**2)
                feasible = _normal_cdf((1.0 - loss) / spread)
            seconds = _seconds(recipe, history, judging)
            scores.append(gain * feasible * _chance_to_run(recipe, history) / seconds)
        return left[int(np.argmax(scores))]


def _hopeful(
    left: Sequence[Recipe], history: Sequence[Trial], tolerance: float
) -> Sequence[Recipe]:
    """Those whose engine, with its options, is not known to spoil them; all where none is left.

    A provider may load, and fail at each of its runs: what that takes is kept for the others. A
    precision that is outside the tolerance by itself is no place for a network of which the
    layers that lose most are kept in float.
    """
    ran: dict[tuple[str, str], list[bool]] = {}
    for trial in history:
        if trial.failed_step is None:
            ran.setdefault(_place(trial.recipe), []).append(trial.status != "failed")
    spoilt = {place for place, runs in ran.items() if len(runs) >= _TRIES and not any(runs)}
    spoilt |= {
        _place(trial.recipe)
        for trial in history
        if not trial.recipe.steps
        and not trial.recipe.start
        and (quality := trial.evidence.search_quality) is not None
        and quality.drop.low > tolerance
    }
    return [recipe for recipe in left if _place(recipe) not in spoilt] or left


def _place(recipe: Recipe) -> tuple[str, str]:
    """The engine and its options."""
    options = recipe.deploy.options
    return recipe.deploy.engine, str(sorted(options.items()))


def _opening(space: JointSpace, left: Sequence[Recipe]) -> Recipe | None:
    """The plain recipe of each engine first: the fastest equivalent is needed whatever follows."""
    seen: set[str] = set()
    waiting = {recipe.id for recipe in left}
    # What compiles comes last: the others' times are then known whatever becomes of it.
    for recipe in sorted(space.recipes, key=lambda it: _COMPILE.get(it.deploy.engine, 0.0)):
        if recipe.steps or not space.is_exact(recipe) or recipe.deploy.engine in seen:
            continue
        seen.add(recipe.deploy.engine)
        if recipe.id in waiting:
            return recipe
    return None


def _first_of_start(left: Sequence[Recipe], history: Sequence[Trial]) -> Recipe | None:
    """Each further network once as it is, deployed like the fastest original.

    It may differ from the original by more than all techniques together, and nothing is known of
    it before.
    """
    tried = {"", *(trial.recipe.start for trial in history)}
    plain = [recipe for recipe in left if not recipe.steps and recipe.start not in tried]
    if not plain:
        return None
    known = {
        trial.recipe.deploy.to_json(): time
        for trial in history
        if not trial.recipe.steps and (time := _log_time(trial)) is not None
    }
    start = plain[0].start
    return min(
        (recipe for recipe in plain if recipe.start == start),
        key=lambda recipe: known.get(recipe.deploy.to_json(), math.inf),
    )


def _features(recipe: Recipe) -> Iterator[str]:
    engine = recipe.deploy.engine
    yield engine
    if recipe.start:
        yield f"{_START}{recipe.start}"
    for name, value in recipe.deploy.options.items():
        yield f"{engine}.{name}={value}"
    if recipe.deploy.streams > 1:
        yield f"{engine}.streams={recipe.deploy.streams}"
    for step in recipe.steps:
        yield step.technique
        yield f"{step.technique}@{engine}"
        for name, value in step.params.items():
            feature = f"{step.technique}.{name}"
            yield f"{_SAME.get(feature, feature)}={value}"
        for name, value in recipe.deploy.options.items():
            yield f"{step.technique}@{engine}.{name}={value}"


def _vector(recipe: Recipe, names: dict[str, int]) -> np.ndarray:
    x = np.zeros(len(names))
    for feature in _features(recipe):
        x[names[feature]] = 1.0
    return x


def _posterior(
    history: Sequence[Trial], names: dict[str, int], what: str, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the weights: conjugate normal update (Bishop 2006, section 3.3)."""
    column, noise = (0, _NOISE_TIME) if what == "time" else (1, _NOISE_LOSS)
    mean = np.array([PRIOR[name][column] if name in PRIOR else 0.0 for name in names])
    if what == "loss":
        kept = np.array([_KEPT in name for name in names])
        mean[kept] *= max(1.0, _lost_by_all(history, tolerance))
    rows, values = [], []
    for trial in history:
        value = _log_time(trial) if what == "time" else _loss(trial, tolerance)
        if value is not None:
            rows.append(_vector(trial.recipe, names))
            values.append(value)
    covariance = np.diag([_spread(name, what) ** 2 for name in names])
    if not rows:
        return mean, covariance
    x = np.array(rows)
    gram = x @ covariance @ x.T + np.eye(len(rows)) * noise**2
    gain = np.linalg.solve(gram, x @ covariance).T
    return mean + gain @ (np.array(values) - x @ mean), covariance - gain @ x @ covariance


def _spread(name: str, what: str) -> float:
    """Standard deviation of a feature's weight before any trial."""
    if name.startswith(_START):
        return _START_SD
    if what == "time":
        return _WEIGHT_SD
    return _PAIR_LOSS_SD if "@" in name else _LOSS_SD


def _lost_by_all(history: Sequence[Trial], tolerance: float) -> float:
    """The least that was lost with no layer kept in float, in tolerances; 0 where none was tried.

    Layers that stay in float win back a part of that, which is the more the larger it is.
    """
    losses = [
        loss
        for trial in history
        if any(step.params.get("keep_float") == 0.0 for step in trial.recipe.steps)
        and (loss := _loss(trial, tolerance)) is not None
    ]
    return min(losses, default=0.0)


def _log_time(trial: Trial) -> float | None:
    """Log of the candidate's time over the anchor's, from the race's own paired rounds."""
    for speedup in trial.evidence.speedups:
        if speedup.against == "anchor":
            return -math.log(speedup.ratio.estimate)
    return None


def _loss(trial: Trial, tolerance: float) -> float | None:
    """Quality that the proof will have to allow for, in tolerances; None where none was scored."""
    bound = likely_bound(trial)
    return None if bound is None else float(np.clip(bound / tolerance, -1.0, _WORST_LOSS))


def _chance_to_run(recipe: Recipe, history: Sequence[Trial]) -> float:
    """Laplace's rule of succession for the engine and each technique: as if each had run once.

    A technique that is too slow for this model fails with all its parameters, each failure
    costing a trial's whole patience. An engine that loads and cannot run fails with every recipe:
    that says nothing of the techniques in them.
    """
    works = {trial.recipe.deploy.engine for trial in history if trial.status != "failed"}
    engine = [
        trial.status != "failed"
        for trial in history
        if trial.recipe.deploy.engine == recipe.deploy.engine and trial.failed_step is None
    ]
    chance = (1 + sum(engine)) / (1 + len(engine))
    if _is_built(recipe, history):
        return chance
    for step in recipe.steps:
        tried = [
            trial.status != "failed"
            for trial in history
            if any(other.technique == step.technique for other in trial.recipe.steps)
            and (trial.failed_step is not None or trial.recipe.deploy.engine in works)
        ]
        chance *= (1 + sum(tried)) / (1 + len(tried))
    return chance


def _seconds(recipe: Recipe, history: Sequence[Trial], judging: float) -> float:
    """Expected cost of a trial: what building with the same techniques took so far, else the prior.

    What was built once is kept: on another engine, or with other options, it has only to be scored
    and timed, which takes `judging` seconds.
    """
    techniques = tuple(step.technique for step in recipe.steps)
    alike = [
        trial
        for trial in history
        if tuple(step.technique for step in trial.recipe.steps) == techniques
    ]
    built = [trial.seconds.get("build", 0.0) for trial in alike]
    rest = 2.0 + _COMPILE.get(recipe.deploy.engine, 0.0) + judging
    if _is_built(recipe, history):
        return rest
    seen = {name for trial in alike for name in _params(trial.recipe)}
    extra = sum(PRIOR.get(name, (0.0, 0.0, 0.0))[2] for name in _params(recipe) if name not in seen)
    if built:
        return rest + extra + float(np.median(built))
    return rest + extra + sum(PRIOR.get(name, (0.0, 0.0, 5.0))[2] for name in techniques)


def _judging_seconds(history: Sequence[Trial]) -> float:
    """What scoring and timing took in the median; the original's own is no guide, it is kept."""
    found = [
        sum(trial.seconds.get(stage, 0.0) for stage in ("evaluate", "time"))
        for trial in history
        if trial.number and "evaluate" in trial.seconds
    ]
    return float(np.median(found)) if found else 0.0


def _params(recipe: Recipe) -> Iterator[str]:
    """The features that tell how the steps are applied."""
    for step in recipe.steps:
        for name, value in step.params.items():
            yield f"{step.technique}.{name}={value}"


def _is_built(recipe: Recipe, history: Sequence[Trial]) -> bool:
    """Whether a trial has made what all the steps make."""
    return any(
        trial.recipe.start == recipe.start
        and trial.recipe.steps[: len(recipe.steps)] == recipe.steps
        and (trial.failed_step is None or trial.failed_step >= len(recipe.steps))
        for trial in history
    )


def _expected_improvement(best: float, mean: float, sd: float) -> float:
    z = (best - mean) / sd
    return sd * (z * _normal_cdf(z) + math.exp(-z * z / 2) / math.sqrt(2 * math.pi))


def _normal_cdf(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))
