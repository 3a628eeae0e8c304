"""One search from start to bundle: take in, race, prove, time again, deliver."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from strop.errors import InputError
from strop.measure import machine
from strop.models.model import digest_of_tree
from strop.records import (
    Event,
    Result,
    SearchFinished,
    SearchStarted,
    StageEntered,
    Target,
    Trial,
    TrialFinished,
    Warned,
)
from strop.search import intake, output, strategies
from strop.search.builder import Built
from strop.search.cache import Cache
from strop.search.deliver import Delivery, deliver
from strop.search.evaluator import Evaluator
from strop.search.journal import Journal
from strop.search.ledger import Ledger
from strop.search.race import Race
from strop.search.request import Request, text_of
from strop.search.space import joint_space, original_recipe
from strop.search.task import Task
from strop.search.workspace import Clock, Workspace
from strop.workers import Pool

Listener = Callable[[Event], None]
_MEMORY_SHARE = 0.8
_PROOF_RUNS = 3.5
_TIMING_SHARE = 0.2


@dataclass(frozen=True)
class Outcome:
    """What a search leaves behind: ``result.json``, ``journal.jsonl`` and ``bundle/``."""

    result: Result
    folder: Path

    @property
    def bundle(self) -> Path:
        return self.folder / self.result.bundle


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
        goal=request.goal,
        batch=request.batch,
        threads=request.threads,
        max_memory_bytes=request.max_memory_bytes,
        max_p99_seconds=request.max_p99_seconds,
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
        clock = Clock(request.budget_seconds, spent=spent)
        workspace = _take_in(request, target, clock, pool, scratch, say)
        history = _history(previous, workspace.task)
        output.open_folder(folder, resume=request.resume)
        journal = Journal(folder / "journal.jsonl")
        stack.callback(journal.close)

        def emit(event: Event) -> None:
            if isinstance(event, Warned):
                workspace.warnings.append(event.message)
            journal.append(event)
            for listener in listeners:
                listener(event)

        workspace.emit = emit
        result = _search(workspace, history, folder, resumed=bool(previous))
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
        model, payload = intake.import_model(request, pool, scratch)
        say("reading the examples")
        roles, dataset, warnings = intake.read_roles(request, model.signature, scratch)
        metric = intake.choose_metric(request, model, payload, roles, pool, target)
    task = Task(
        model=text_of(request.model),
        model_digest=model.digest,
        data=text_of(request.data),
        data_digest=dataset.digest,
        tolerance=request.tolerance,
        confidence=request.confidence,
        metric=metric.describe(),
        goal=target.goal,
        batch=target.batch,
        threads=target.threads,
        max_memory_bytes=target.max_memory_bytes,
        max_p99_seconds=target.max_p99_seconds,
        engines=None if request.engines is None else tuple(request.engines),
        techniques=None if request.techniques is None else tuple(request.techniques),
        strategy=request.strategy,
        seed=request.seed,
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
        warnings=warnings,
        preprocess=request.preprocess,
    )


def _history(previous: Sequence[Event], task: Task) -> list[Trial]:
    """Trials of the interrupted run, provided that it was the same task."""
    trials: dict[int, Trial] = {}
    for event in previous:
        if isinstance(event, SearchStarted) and event.task != task.to_dict():
            changed = [key for key, value in task.to_dict().items() if event.task.get(key) != value]
            raise InputError(
                f"the interrupted search was another one: {', '.join(changed)} differ",
                hint="leave --resume away, or give what was given then",
            )
        if isinstance(event, TrialFinished):
            trials[event.trial.number] = event.trial
    return [trials[number] for number in sorted(trials)]


def _search(
    workspace: Workspace, history: Sequence[Trial], folder: Path, *, resumed: bool
) -> Result:
    """Race, prove, deliver, write."""
    task, clock = workspace.task, workspace.clock
    space = joint_space(
        workspace.model,
        workspace.target,
        only_engines=task.engines,
        only_techniques=task.techniques,
        roles=[role for role, dataset in workspace.roles.items() if len(dataset)],
        seed=task.seed,
    )
    if not resumed:
        workspace.emit(
            SearchStarted(
                task=task.to_dict(),
                budget_seconds=clock.budget,
                candidates=len(space.recipes),
            )
        )
    early, workspace.warnings = workspace.warnings, []
    for line in early:
        workspace.emit(Warned(message=line))
    workspace.emit(StageEntered(stage="reference", detail="running the original"))
    spec = intake.original_spec(workspace.model, workspace.target)
    recipe = original_recipe(workspace.model, workspace.target)
    artifact = Path(spec.artifact)
    original = Built(
        recipe, workspace.model, spec, artifact.parent, digest_of_tree(artifact.parent)
    )
    evaluator = Evaluator(workspace, spec)
    start = time.monotonic()
    reference = evaluator.score_original("search")
    # The original, its equivalent and a few candidates are still to be run over *prove*.
    seconds = (time.monotonic() - start) * len(workspace.roles["prove"]) / reference.n
    clock.reserve(_PROOF_RUNS * seconds + _TIMING_SHARE * clock.budget)
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
