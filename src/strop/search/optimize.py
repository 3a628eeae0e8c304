"""One search from start to bundle: take in, race, prove, time again, deliver."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from strop import data as datasets
from strop.errors import InputError, MissingExtra
from strop.measure import machine
from strop.models.model import digest_of_tree
from strop.records import (
    Candidate,
    Event,
    Network,
    Result,
    SearchFinished,
    SearchStarted,
    SessionSpec,
    StageEntered,
    Target,
    Trial,
    TrialFinished,
    Warned,
)
from strop.search import intake, networks, output, strategies
from strop.search.builder import Built
from strop.search.cache import Cache
from strop.search.deliver import Delivery, deliver
from strop.search.evaluator import SCORING_BATCH, Evaluator
from strop.search.journal import Journal
from strop.search.ledger import Ledger
from strop.search.objective import at_once, speed
from strop.search.operating import open_batch
from strop.search.race import Race
from strop.search.request import Request, text_of
from strop.search.space import JointSpace, joint_space, original_recipe
from strop.search.spending import caution
from strop.search.task import Task
from strop.search.workspace import Clock, Workspace
from strop.workers import Pool

Listener = Callable[[Event], None]
_MEMORY_SHARE = 0.8
_PACE_ROWS = 64
_RESERVE = 0.25
_REFERENCE_SHARE, _PROOF_SHARE, _TIMING_SHARE = 0.1, 0.25, 0.2
_PROOF_RUNS = 3.0
_LEAST_ROWS = 300


@dataclass(frozen=True)
class Outcome:
    """What a search leaves behind: ``result.json``, ``journal.jsonl`` and ``bundle/``."""

    result: Result
    folder: Path

    @property
    def bundle(self) -> Path:
        """The folder that :func:`strop.load` takes."""
        return self.folder / self.result.bundle

    @property
    def best(self) -> Candidate:
        """What was delivered: its recipe and its evidence."""
        return self.result.delivered

    @property
    def pareto(self) -> list[Trial]:
        """The trials that no other beats in quality, latency, memory and size at once."""
        return [trial for trial in self.result.trials if trial.number in self.result.pareto]

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """The outcome of a finished search, from its output folder.

        Raises
        ------
        InputError
            When the folder holds no result.
        """
        place = Path(folder).absolute()
        if not (place / "result.json").is_file():
            raise InputError(
                f"the folder '{folder}' holds no result.json",
                hint="name what strop optimize wrote (--output), once it has finished",
            )
        return cls(Result.read(place / "result.json"), place)

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict a trial: what it was, how far it came, and what was measured of it."""
        return [_row(trial) for trial in self.result.trials]

    def to_dataframe(self) -> Any:
        """The trials as a ``pandas.DataFrame``, indexed by their numbers.

        Raises
        ------
        MissingExtra
            When pandas is not installed; :meth:`rows` needs nothing.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtra("pandas", extra="notebook") from error
        return pandas.DataFrame(self.rows()).set_index("number")


def optimize(
    request: Request,
    *,
    listeners: Sequence[Listener] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Find the fastest version of a model that is proven to stay within the tolerance.

    Parameters
    ----------
    listeners
        Hear every event, the journal first.
    say
        Takes short lines about what goes on right now, for a progress view.

    Raises
    ------
    InputError
        When something that was given cannot be used; nothing has been written then.
    """
    request.check()
    strategies.get(request.strategy)
    folder = request.folder
    previous = output.check(folder, resume=request.resume)
    spent = max((e.elapsed for e in previous if isinstance(e, TrialFinished)), default=0.0)
    described = machine.describe()
    target = Target(
        machine=described,
        device=request.device,
        goal=request.goal,
        batch=request.batch or 1,
        threads=request.threads,
        max_memory_bytes=request.max_memory_bytes,
        max_p99_seconds=request.max_p99_seconds,
        price=request.machine_price,
        rate=request.required_rate,
        max_utilisation=request.utilisation,
        watts_per_core=request.watts,
    )
    with contextlib.ExitStack() as stack:
        scratch = Path(tempfile.mkdtemp(prefix="strop-"))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        pool = stack.enter_context(
            Pool(
                memory_limit=int(described.memory_bytes * _MEMORY_SHARE),
                cpus=described.cpus,
                env={"OMP_NUM_THREADS": str(target.thread_count)},
            )
        )
        # What training takes leaves less to prove with, and so less to keep for it.
        untrained = 1 - request.train_seconds / request.budget_seconds
        clock = Clock(request.budget_seconds, reserve=_RESERVE * untrained, spent=spent)
        workspace = _take_in(request, target, clock, pool, scratch, say)
        history = _history(previous, workspace.task)
        output.open_folder(folder, resume=request.resume)
        stack.callback(output.discard_empty, folder)
        journal = Journal(folder / "journal.jsonl")
        stack.callback(journal.close)

        def emit(event: Event) -> None:
            if isinstance(event, Warned):
                workspace.warnings.append(event.message)
            journal.append(event)
            for listener in listeners:
                listener(event)

        workspace.emit = emit
        rows = next((e.rows for e in previous if isinstance(e, SearchStarted)), None)
        try:
            result = _search(workspace, history, folder, rows)
        except InputError as error:
            # Some bad input shows only when the original has run, as targets out of its range do.
            # A disk that is full is not bad input: --resume goes on when there is room.
            if not isinstance(error.__cause__, OSError):
                output.discard_fruitless(folder)
            raise
        return Outcome(result, folder)


def _take_in(
    request: Request,
    target: Target,
    clock: Clock,
    pool: Pool,
    scratch: Path,
    say: Callable[[str], None],
) -> Workspace:
    """Read and check all that was given; nothing is written outside scratch and the cache."""
    with clock.phase("import"):
        say("reading the model")
        first, *more = request.models
        model, payload = intake.import_model(replace(request, model=first), pool, scratch)
        intake.check_device(model, target)
        others = networks.import_others(request, model, pool, scratch) if more else {}
        say("reading the examples")
        roles, dataset, warnings = intake.read_roles(request, model.signature, scratch)
        metric, notes = intake.choose_metric(request, model, payload, roles, pool, target)
        model, student = intake.add_student(request, model, payload, roles, pool)
    batch_is_free = (
        request.batch is None and at_once(target.goal) and model.signature.batch_is_dynamic
    )
    task = Task(
        model=text_of(first),
        model_digest=model.digest,
        data=text_of(request.data),
        data_digest=dataset.digest,
        tolerance=request.tolerance,
        confidence=request.confidence,
        metric=metric.describe(),
        goal=target.goal,
        batch=None if batch_is_free else target.batch,
        threads=target.threads,
        max_memory_bytes=target.max_memory_bytes,
        max_p99_seconds=target.max_p99_seconds,
        engines=None if request.engines is None else tuple(request.engines),
        techniques=None if request.techniques is None else tuple(request.techniques),
        strategy=request.strategy,
        seed=request.seed,
        price=target.price,
        rate=target.rate,
        max_utilisation=target.max_utilisation,
        watts_per_core=target.watts_per_core,
        device=target.device,
        others=tuple(
            Network(name=name, content_digest=start.model.digest) for name, start in others.items()
        ),
    )
    return Workspace(
        task=task,
        model=model,
        payload=payload,
        roles=roles,
        metric=metric,
        target=target,
        cache=Cache(),
        pool=pool,
        folder=scratch,
        clock=clock,
        emit=lambda event: None,
        say=say,
        others=others,
        warnings=[*intake.import_notes(model), *warnings, *notes],
        preprocess=request.preprocess,
        train_seconds=request.train_seconds,
        train_rest=request.train_rest,
        student=student,
        proof_set=roles["prove"].digest,
        batch_is_free=batch_is_free,
    )


def _history(previous: Sequence[Event], task: Task) -> list[Trial]:
    """Trials of the interrupted run, provided that it was the same task."""
    trials: dict[int, Trial] = {}
    for event in previous:
        # Read first, so that what an earlier version did not write has its default.
        if isinstance(event, SearchStarted) and Task.from_dict(event.task) != task:
            then = Task.from_dict(event.task).to_dict()
            changed = [key for key, value in task.to_dict().items() if then[key] != value]
            raise InputError(
                f"the interrupted search was another one: it differs in {', '.join(changed)}",
                hint="leave --resume away, or give what was given then",
            )
        if isinstance(event, TrialFinished):
            trials[event.trial.number] = event.trial
    return [trials[number] for number in sorted(trials)]


def _search(
    workspace: Workspace,
    history: Sequence[Trial],
    folder: Path,
    rows: Mapping[str, int] | None,
) -> Result:
    """Race, prove, deliver, write; `rows` are a resumed search's examples by role."""
    task, clock = workspace.task, workspace.clock
    spec = intake.original_spec(workspace.model, workspace.target)
    if workspace.batch_is_free:
        workspace.say("looking for the batch size")
        # A resumed race goes on at the batch size that it began with.
        batch = history[0].recipe.deploy.batch if history else open_batch(workspace, spec)
        workspace.target = workspace.target.model_copy(update={"batch": batch})
    space = _space(workspace)
    recipe = original_recipe(workspace.model, workspace.target)
    artifact = Path(spec.artifact)
    original = Built(
        recipe, workspace.model, spec, artifact.parent, digest_of_tree(artifact.parent)
    )
    evaluator = Evaluator(workspace, spec)
    cut = _fit_to_budget(workspace, spec, rows)
    if rows is None:
        workspace.emit(
            SearchStarted(
                task=task.to_dict(),
                budget_seconds=clock.budget,
                candidates=len(space.recipes),
                rows={role: len(dataset) for role, dataset in workspace.roles.items()},
            )
        )
    else:
        trials = f"{len(history)} trial{'' if len(history) == 1 else 's'}"
        left = f"{max(clock.left, 0):.0f} s of {clock.budget:.0f} s left"
        workspace.emit(StageEntered(stage="race", detail=f"going on after {trials}, {left}"))
    early, workspace.warnings = workspace.warnings, []
    for line in [*intake.busy_notes(), *early, *caution(workspace.target), *cut]:
        workspace.emit(Warned(message=line))
    judged = getattr(workspace.metric, "output", None)
    judge = workspace.metric.name + (f" of '{judged}'" if judged else "")
    workspace.emit(StageEntered(stage="reference", detail=f"running the original; {judge} judges"))
    reference = evaluator.score_original("search")
    mean = reference.set_values[0] if reference.set_values else float(reference.reference.mean())
    workspace.tolerance = task.tolerance.absolute(mean)
    note, enough = intake.power_note(
        len(workspace.roles["prove"]), workspace.tolerance, workspace.alpha, workspace.metric.kind
    )
    workspace.emit(StageEntered(stage="race", detail=note) if enough else Warned(message=note))
    race = Race(
        workspace,
        space,
        strategies.get(task.strategy),
        evaluator,
        original,
        history,
        equivalent_only=not enough,
    )
    try:
        race.run()
    except KeyboardInterrupt:
        workspace.emit(Warned(message="interrupted: finishing with the best found so far"))
    delivery: Delivery = deliver(workspace, race, evaluator, original, Ledger(), too_few=not enough)
    workspace.emit(
        SearchFinished(improved=delivery.improved, reason=delivery.reason, elapsed=clock.elapsed)
    )
    return output.write(workspace, race, delivery, folder)


def _space(workspace: Workspace) -> JointSpace:
    """The joint space of all the networks that were given."""
    task = workspace.task
    starts = {"": workspace.model, **{name: one.model for name, one in workspace.others.items()}}
    roles = {role for role, dataset in workspace.roles.items() if len(dataset)}
    if not workspace.train_seconds:
        roles.discard("train")
    spaces = []
    for name, model in starts.items():
        # The original teaches: two modules of one call are only sure to be called alike where both
        # were converted from ONNX.
        modules = name and any("module" in one.forms for one in (workspace.model, model))
        spaces.append(
            joint_space(
                model,
                workspace.target,
                only_engines=task.engines,
                only_techniques=task.techniques,
                roles=sorted(roles - {"train"} if modules else roles),
                seed=task.seed,
                start=name,
                seconds=workspace.clock.budget,
            )
        )
    return functools.reduce(JointSpace.joined, spaces)


def _fit_to_budget(
    workspace: Workspace, original: SessionSpec, rows: Mapping[str, int] | None
) -> list[str]:
    """Keep as many examples as the budget can pay for, and time enough to judge on them.

    Which examples stay is decided by the salted order of their groups and the original's pace,
    before any score is seen, so the claim holds for what is left. A resumed search keeps the
    `rows` that it began with. Returns what the user should know.
    """
    clock, roles = workspace.clock, workspace.roles
    budget = clock.budget - workspace.train_seconds
    pace = _seconds_per_example(workspace, original)
    runs = {"search": (1.0, _REFERENCE_SHARE), "prove": (_PROOF_RUNS, _PROOF_SHARE)}
    notes = []
    for role, (count, share) in runs.items():
        whole = roles[role]
        affordable = max(_LEAST_ROWS, int(share * budget / (count * pace)))
        roles[role] = kept = datasets.first_groups(
            whole, affordable if rows is None else rows.get(role, len(whole))
        )
        if len(kept) < len(whole):
            notes.append(
                f"the budget has time for {len(kept):,} of {len(whole):,} examples in "
                f"'{role}': the original takes {pace * 1e3:.3g} ms each"
            )
    proof = _PROOF_RUNS * pace * len(roles["prove"])
    clock.reserve(proof + _TIMING_SHARE * budget)
    return notes


def _seconds_per_example(workspace: Workspace, original: SessionSpec) -> float:
    """The original's pace over a few examples, its first run left out."""
    dataset = workspace.roles["search"]
    rows = np.arange(min(_PACE_ROWS, len(dataset)))
    with workspace.clock.phase("evaluate"):
        seconds = workspace.call(
            "evaluate",
            "pace",
            spec=original.to_dict(),
            payload=workspace.payload_for(original),
            dataset=dataset.describe(),
            rows=rows,
            batch=SCORING_BATCH,
        )
    return max(float(seconds) / len(rows), 1e-7)


def _row(trial: Trial) -> dict[str, Any]:
    found, memory = trial.evidence.search_quality, trial.evidence.memory
    latency = trial.evidence.latency[0] if trial.evidence.latency else None
    energy, cost = trial.evidence.energy, trial.evidence.cost
    return {
        "number": trial.number,
        "recipe": str(trial.recipe),
        "engine": trial.recipe.deploy.engine,
        "status": trial.status,
        "reason": trial.reason,
        "equivalent": trial.equivalent,
        "drop": found.drop.estimate if found else None,
        "speed": speed(trial),
        "p50_seconds": latency.p50.estimate if latency else None,
        "p99_seconds": latency.p99.estimate if latency else None,
        "throughput": latency.throughput if latency else None,
        "peak_bytes": memory.peak if memory else None,
        "file_bytes": memory.file if memory else None,
        "joules": energy.joules.estimate if energy else None,
        "energy": energy.kind if energy else None,
        "cost_per_million": cost.per_million if cost else None,
        "seconds": sum(trial.seconds.values()),
    }
