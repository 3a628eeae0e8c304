"""What `strop report --json` prints: which step brought what, and how each engine did."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strop.records import Interval, Record


class Training(Record):
    """One training run inside a step, as the step recorded it; null where it did not.

    Attributes
    ----------
    part
        Which run of the step it was, where there were several: ``recovery 1 of 2``.
    steps, epochs
        How far it went.
    learning_rate, precision
        What its own short trials chose.
    loss
        Of the last steps before the end.
    quality, before, best
        What it was judged by, before training and of the weights that were kept.
    judged_on, judged
        Where the examples that it was judged on come from, and how many there were.
    examples, of, chosen
        How many examples it learned from, of how many, and how they were chosen: ``all``,
        ``coreset`` or ``random``.
    stopped
        Why it ended: ``done``, ``early`` or ``time``.
    warnings
        What it had to say.
    """

    part: str = ""
    steps: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    precision: str | None = None
    loss: float | None = None
    quality: str | None = None
    before: float | None = None
    best: float | None = None
    judged_on: str | None = None
    judged: int | None = None
    examples: int | None = None
    of: int | None = None
    chosen: str | None = None
    stopped: str | None = None
    warnings: tuple[str, ...] = ()


class Setting(Record):
    """Other parameters of a step that were tried in its place.

    Attributes
    ----------
    text
        The step with these parameters.
    trial
        The best trial with it.
    speed
        Of that trial, as `Rung.speed`.
    drop
        Of that trial, on *search*.
    reason
        Why it went no further; empty where it was timed.
    """

    text: str
    trial: int
    speed: float | None
    drop: float | None
    reason: str


class Rung(Record):
    """The model after one more step.

    Attributes
    ----------
    kind
        What the step is: the ``original`` itself, another ``network`` to start from, a
        ``technique``, the ``engine``, or the ``setting``: batch size, threads and calls at once.
    name
        The step for people.
    recipe
        What was measured: the steps so far, on the engine and with the options of that trial.
        Where nothing was, what would have been.
    trial
        Number of the trial that is told of; null where none was tried.
    speed
        How many times as fast as `Ladder.against`; null where it was not timed.
    gain
        How many times as fast as the rung before that was timed.
    together
        What that gain is of besides this step: steps that were not measured alone, and options of
        the engine that differ between the two trials.
    drop
        Loss of quality on *search*, against the original; null where it was not scored.
    file, weights
        Bytes of the artefact; null where it was not timed.
    reason
        Why a figure is missing, or which other options of the engine it was measured with.
    parameters
        Of the network before and after the step, where the step tells.
    train_seconds
        That it trained for; null where it does not train or shares a trial with another that does.
    trainings
        Its training runs, oldest first.
    student
        Of a distillation, in words.
    others
        Of a step that trains, the other settings that the search tried in its place.
    """

    kind: Literal["original", "network", "technique", "engine", "setting"]
    name: str
    recipe: str
    trial: int | None
    speed: Interval | None
    gain: Interval | None
    together: tuple[str, ...]
    drop: Interval | None
    file: int | None
    weights: int | None
    reason: str
    parameters: tuple[int, int] | None = None
    train_seconds: float | None = None
    trainings: tuple[Training, ...] = ()
    student: str = ""
    others: tuple[Setting, ...] = ()


class Ladder(Record):
    """From the original to what was delivered, a step at a time.

    Attributes
    ----------
    order
        Where the change of engine stands: ``engine-last`` or ``engine-first``, whichever order has
        more rungs that the search measured; ``one-engine`` where it does not change.
    against
        What speeds are relative to: the first rung that was timed.
    """

    order: Literal["engine-last", "engine-first", "one-engine"]
    against: str
    rungs: tuple[Rung, ...]


class EngineRow(Record):
    """How one engine did with the model on this machine.

    Attributes
    ----------
    status
        ``delivered``; ``measured``; ``unfit`` (whatever was timed loses more than was allowed, or
        breaks another limit); ``failed`` (nothing could be timed); ``left-out`` (it took no
        part).
    trials
        How many recipes ended on it.
    recipe, trial
        The best of them at the goal within the tolerance; where none is, the least lossy.
    speed
        How many times as fast as `Breakdown.against`.
    plain
        The same of the best recipe on it that keeps the original's outputs.
    drop, file, peak
        Loss on *search*, bytes on disk, most bytes resident.
    reason
        Why it did not run, or loses too much, with the way out where there is one.
    """

    engine: str
    status: Literal["delivered", "measured", "unfit", "failed", "left-out"]
    trials: int = 0
    recipe: str = ""
    trial: int | None = None
    speed: Interval | None = None
    plain: Interval | None = None
    drop: Interval | None = None
    file: int | None = None
    peak: int | None = None
    reason: str = ""


class Breakdown(Record):
    """What `strop report --json` prints.

    Attributes
    ----------
    path
        Of the HTML report.
    steps
        Null where what was delivered is the original, unchanged.
    against
        What the speeds in `engines` are relative to.
    engines
        The best first, then those that could not take part.
    why
        The choice of the engine, in sentences.
    left_out
        Techniques that took no part, and why.
    """

    schema_version: int = Field(default=1, alias="schema")
    model: str
    path: str
    headline: str
    steps: Ladder | None
    against: str
    engines: tuple[EngineRow, ...]
    why: tuple[str, ...]
    left_out: dict[str, str] = Field(default_factory=dict)
