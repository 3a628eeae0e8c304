"""The proof: the plan is fixed, the proof set is opened, candidates are tested in order.

Fixed-sequence testing along the Pareto front as *search* ordered it, surest first, stopping at
the first failure, holds the family-wise error without splitting it (Laufer-Goldshtein et al.,
ICLR 2023, "Efficiently Controlling Multiple Risks with Pareto Testing"; Angelopoulos et al. 2021,
"Learn then Test").
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from strop.errors import StropError
from strop.proof import BootstrapRefused, Resamples, ledger_alpha, second_moment
from strop.proof import prove as test
from strop.records import Claim, ProofFinished, ProofOpened, Quality, Trial, canonical_json
from strop.search.builder import Built
from strop.search.evaluator import Evaluator, Role, Scored, quality
from strop.search.ledger import Ledger
from strop.search.objective import cost, speed, sureness
from strop.search.race import EQUIVALENT_ERROR
from strop.search.workspace import Workspace, reason_of

_MOST = 8
_WORTH = 0.98  # less is lost in the noise of the final timing
_BOOTSTRAP_SHARE, _LEAST_SECONDS = 0.5, 5.0
_BOTH: tuple[Role, Role] = ("search", "prove")


@dataclass(frozen=True)
class Proof:
    """What the proof found for one candidate.

    Attributes
    ----------
    claim
        None when the test did not reject.
    salt
        The plan's digest, which salts the order of bets: with it the test can be run again.
    upper, p
        Upper bound on the mean drop, and the test's p-value, whether or not it was proven.
    resamples
        What the bound of a set-level metric was computed from.
    """

    trial: Trial
    claim: Claim | None
    quality: Quality
    scored: Scored
    upper: float | None
    p: float | None
    reason: str = ""
    salt: str = ""
    resamples: Resamples | None = None


def plan(workspace: Workspace, trials: Sequence[Trial], worst_cost: float) -> list[Trial]:
    """The candidates worth a test, surest first, none both less sure and no better.

    Parameters
    ----------
    worst_cost
        A candidate must cost less than this (the fastest equivalent's cost) to be worth a test.
    """
    goal = workspace.task.goal
    wanted = [
        trial
        for trial in trials
        if trial.status in ("alive", "front")
        and not trial.equivalent
        and speed(trial) is not None
        and sureness(trial, workspace.tolerance) > 0
        and cost(trial, goal) < _WORTH * worst_cost
    ]
    # What scores the same, as the tuned and the untuned of one artefact do, is tested once.
    wanted.sort(key=lambda trial: (-sureness(trial, workspace.tolerance), cost(trial, goal)))
    chain: list[Trial] = []
    for trial in wanted:
        if not chain or cost(trial, goal) < cost(chain[-1], goal):
            chain.append(trial)
    # Too long a chain costs time and gains little: keep the surest and the cheapest ones.
    return chain if len(chain) <= _MOST else [*chain[:2], *chain[2 - _MOST :]]


def prove_in_order(
    workspace: Workspace,
    evaluator: Evaluator,
    chain: Sequence[tuple[Trial, Built]],
    search_drops: Mapping[int, np.ndarray],
    ledger: Ledger,
) -> list[Proof]:
    """Test the chain on *prove* until the first failure."""
    if not chain:
        return []
    task, metric = workspace.task, workspace.metric
    dataset = workspace.roles["prove"]
    # Everything that the verdict depends on is fixed by digest before the first look.
    document = {
        "candidates": [[built.digest, built.recipe.id] for _, built in chain],
        "tolerance": workspace.tolerance,
        "alpha": workspace.alpha,
        "metric": metric.describe(),
        "proof_set": dataset.digest,
        "reference": workspace.model.digest,
        "seed": task.seed,
    }
    digest = hashlib.sha256(canonical_json(document).encode()).hexdigest()
    run = ledger.open_set(workspace.proof_set, digest)
    workspace.emit(ProofOpened(plan_digest=digest, run=run))
    alpha = ledger_alpha(workspace.alpha, run)
    found: list[Proof] = []
    longest = 0.0
    for trial, built in chain:
        if found and workspace.clock.left < 2 * longest:
            break
        start = time.monotonic()
        proof = _prove_one(workspace, evaluator, trial, built, search_drops, alpha, run, digest)
        longest = max(longest, time.monotonic() - start)
        found.append(proof)
        # Of a candidate that was not proven nothing is published: what is known of the proof set
        # would make later candidates adaptive to it.
        told = proof if proof.claim is not None else None
        workspace.emit(
            ProofFinished(
                number=trial.number,
                claim=proof.claim,
                upper=told.upper if told else None,
                p=told.p if told else None,
            )
        )
        if proof.claim is None:
            break
    return found


def equivalence(workspace: Workspace, evaluator: Evaluator, trial: Trial, built: Built) -> Proof:
    """Whether the candidate's outputs are the original's on all examples, *prove* included."""
    if trial.number == 0:
        on_search, on_prove = (evaluator.score_original(role) for role in _BOTH)
    else:
        on_search, on_prove = (evaluator.score(built, role) for role in _BOTH)
    worst = float(max(on_search.errors.max(), on_prove.errors.max()))
    changed = int(on_search.changed.sum() + on_prove.changed.sum())
    n = on_search.n + on_prove.n
    record = quality(workspace, on_prove)
    if worst > EQUIVALENT_ERROR or changed:
        reason = f"{changed} decisions changed, outputs differ by up to {worst:.1e}"
        return Proof(trial, None, record, on_prove, None, None, reason)
    groups = sum(len(np.unique(workspace.roles[role].groups)) for role in _BOTH)
    claim = Claim(
        kind="equivalent",
        metric=workspace.metric.name,
        method="outputs compared",
        n=n,
        groups=groups,
        isa=workspace.target.machine.isa,
    )
    return Proof(trial, claim, record, on_prove, 0.0, None)


def _prove_one(
    workspace: Workspace,
    evaluator: Evaluator,
    trial: Trial,
    built: Built,
    search_drops: Mapping[int, np.ndarray],
    alpha: float,
    run: int,
    plan_digest: str,
) -> Proof:
    dataset, metric = workspace.roles["prove"], workspace.metric
    scored = evaluator.score(built, "prove")
    record = quality(workspace, scored)
    resamples: Resamples | None = None
    if metric.kind == "set":
        upper, reason = None, ""
        try:
            seconds = max(_BOOTSTRAP_SHARE * workspace.clock.left, _LEAST_SECONDS)
            drawn = evaluator.bootstrap(built, alpha, seconds=seconds)
            if isinstance(drawn, Resamples):
                resamples, upper = drawn, drawn.upper(alpha)
            else:
                reason = drawn
        except BootstrapRefused as refusal:
            reason = str(refusal)
        except StropError as error:
            reason = reason_of(error)
        proven = upper is not None and upper < workspace.tolerance
        method, p, groups = "paired BCa bootstrap", None, record.groups
        if upper is not None and not proven:
            reason = _unproven(workspace, record)
    else:
        drops = search_drops.get(trial.number)
        v_search = None
        if metric.kind == "bounded" and drops is not None and len(drops):
            v_search = second_moment(drops, workspace.roles["search"].groups[: len(drops)])
        result = test(
            scored.drops,
            workspace.tolerance,
            alpha,
            kind=metric.kind,
            groups=dataset.groups,
            v_search=v_search,
            salt=plan_digest,
        )
        proven, upper, p, method = result.proven, result.upper, result.p, result.method
        groups = result.groups
        reason = "" if proven else _unproven(workspace, record)
    claim = None
    if proven:
        claim = Claim(
            kind="proven",
            metric=metric.name,
            tolerance=workspace.tolerance,
            confidence=workspace.task.confidence,
            method=str(method),
            upper=upper,
            p=p,
            n=scored.n,
            groups=groups,
            asymptotic=metric.kind == "set",
            run=run,
            proof_set=workspace.proof_set,
            isa=workspace.target.machine.isa,
        )
    return Proof(trial, claim, record, scored, upper, p, reason, plan_digest, resamples)


def _unproven(workspace: Workspace, record: Quality) -> str:
    return f"could not be proven within {workspace.tolerance:.2%} on {record.n:,} unseen examples"
