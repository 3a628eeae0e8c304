"""What a training run is told, as plain data, and what it reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from strop.training import schedule

Task = Literal["auto", "classes", "cosine", "values"]
Transfer = Literal["none", "attention", "features"]


@dataclass(frozen=True)
class TrainSettings:
    """How one module is trained under a teacher.

    Attributes
    ----------
    seconds
        Wall seconds of training, trials for the learning rate included; None trains `epochs`.
    epochs
        Passes over the training examples at most; early stopping may end it before.
    batch, least_batch
        Examples a step. Where the time does not pay for some hundred steps of so many, it is
        halved, to `least_batch` at the least. Both are the same for a module that insists on it.
    lr
        Peak learning rate; None finds it by short trials.
    rates
        Which are tried, rising; a run too short for trials takes the lower one in the middle.
    weight_decay
        Decoupled, on matrices and kernels only (Loshchilov and Hutter, 2019).
    task
        What the outputs mean: ``classes`` (scores of classes), ``cosine`` (embeddings, whose
        direction counts), ``values`` (numbers), or ``auto``, which looks at the teacher's outputs.
    temperature
        Softens both sides' scores (Hinton et al., 2015).
    label_weight
        Share of the labels in the loss, where there are labels; the rest is the teacher's.
    transfer
        What is matched inside the networks besides the outputs: nothing, spatial attention
        (Zagoruyko and Komodakis, 2017), or features as relations between examples where widths
        differ (Tung and Mori, 2019) and directly where they agree (Romero et al., 2015).
    transfer_weight
        Its weight beside the loss on the outputs.
    augment
        ``flip`` mirrors images, ``crop`` shifts them by up to an eighth; none by default, because
        only the user knows what leaves a label alone. The teacher then sees the same view
        (Beyer et al., 2022) and its outputs are not kept.
    examples
        Which are trained on: ``all``; a ``coreset`` of what the time pays for
        (`strop.training.coreset`), or a ``random`` part of the same size; ``auto`` is a coreset
        where there is time for less than one pass over them, and all otherwise: for
        students that know something already, because the hard ones alone teach no beginner.
    held_out
        Share of the examples that training never sees, by which it stops early where it is given
        no others to be judged by.
    patience
        Judgements without improvement before it stops; None never stops early.
    precision
        ``float32``, ``bfloat16`` (autocast), or ``auto``: what should be the faster here
        (`strop.training.precision`).
    device
        ``cpu``, ``cuda``, or ``auto``.
    threads
        Of torch, on the CPU; None takes all granted cores.
    teacher_cache
        Folder of the teacher's outputs; None keeps them in the run's own folder.
    cache_bytes
        Bound on the outputs for the examples to train on, and on those for the examples that
        judge; what does not fit is computed again.
    """

    seconds: float | None = None
    epochs: float = 30.0
    batch: int = 128
    least_batch: int = 32
    lr: float | None = None
    rates: tuple[float, ...] = schedule.CANDIDATES
    weight_decay: float = 1e-4
    task: Task = "auto"
    temperature: float = 4.0
    label_weight: float = 0.3
    transfer: Transfer = "none"
    transfer_weight: float = 1.0
    augment: tuple[str, ...] = ()
    examples: Literal["auto", "all", "coreset", "random"] = "auto"
    held_out: float = 0.1
    patience: int | None = 6
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    teacher_cache: Path | None = None
    cache_bytes: int = 4 * 2**30

    def identity(self) -> dict[str, Any]:
        """What decides the course of a run: a checkpoint fits only the same."""
        values = asdict(self)
        for name in ("seconds", "threads", "teacher_cache", "cache_bytes"):
            del values[name]
        values |= {"augment": list(self.augment), "rates": list(self.rates)}
        return values


@dataclass(frozen=True)
class TrainReport:
    """What came of a training run.

    Attributes
    ----------
    steps, epochs
        How far it went, over all attempts.
    seconds
        Wall seconds, over all attempts.
    lr, precision, device
        What was chosen.
    quality
        What `before` and `best` measure: the metric that was named, or ``accuracy`` on the labels,
        ``agreement`` with the teacher's decisions, ``closeness`` (1 minus the relative loss).
    judged_on, judged
        On which examples, the ``search`` split or a part ``held out`` of those to train on, and
        how many of them; on those ``trained on`` where they are one group or a handful.
    before, best
        That quality of the student before training and of the weights that were kept.
    history
        ``(seconds, step, training loss, quality)`` at each judgement.
    stopped
        Why it ended: ``done`` (all epochs), ``early`` (it no longer improved) or ``time`` (there
        was time for no more).
    warnings
        What the user should know: what was skipped, what looked wrong.
    rows, of
        How many examples it was trained on, of how many; `chosen` says how they were chosen:
        ``all``, ``coreset`` or ``random``. `batch` of them made a step.
    resumed
        The step at which it went on after an interruption; 0 for a run of one piece.
    """

    steps: int
    epochs: float
    seconds: float
    lr: float
    precision: str
    device: str
    quality: str
    before: float
    best: float
    history: tuple[tuple[float, int, float, float], ...]
    stopped: str
    warnings: tuple[str, ...] = field(default=())
    judged_on: str = "held out"
    judged: int = 0
    batch: int = 0
    rows: int = 0
    of: int = 0
    chosen: str = "all"
    resumed: int = 0

    def facts(self) -> dict[str, Any]:
        """Plain values for a model's ``meta`` that are equal whenever the training was."""
        return {
            "steps": self.steps,
            "batch": self.batch,
            "epochs": round(self.epochs, 3),
            "lr": self.lr,
            "precision": self.precision,
            # Of the last steps before the end; the history itself tells seconds, which differ.
            "loss": round(self.history[-1][2], 6) if self.history else None,
            "quality": self.quality,
            "before": round(self.before, 6),
            "best": round(self.best, 6),
            "stopped": self.stopped,
            "judged": {"on": self.judged_on, "examples": self.judged},
            "trained": {"on": self.rows, "of": self.of, "chosen": self.chosen},
            "warnings": list(self.warnings),
        }
