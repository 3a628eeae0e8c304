"""What the techniques that train have in common: the original teaches, in batches that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from strop.data import Dataset
from strop.models.model import Model
from strop.techniques._base import Context
from strop.techniques.fixed_batch import fixed_batch

if TYPE_CHECKING:
    from strop.training import TrainSettings


def train_settings(
    model: Model,
    data: Dataset,
    params: Mapping[str, Any],
    ctx: Context,
    *,
    form: Literal["module", "onnx"] = "module",
    **more: Any,
) -> TrainSettings:
    """The settings of a training on `data` in a step with `params`.

    Parameters
    ----------
    params
        ``temperature``, ``labels`` (their share in the loss), and perhaps ``rows`` (which of the
        examples) and ``seconds`` (in place of the step's share of the time).
    form
        Which form of the original teaches: outputs of one are no outputs of the other, to the bit.
    more
        Fields of `TrainSettings` that are this technique's own.
    """
    from strop.training import TrainSettings

    fixed = fixed_batch(model.signature)
    teacher = ctx.teacher or model
    # Beside what this step keeps, where other students of the same teacher find it.
    outputs = ctx.keep.parent if ctx.keep else ctx.workdir / "scratch"
    given: dict[str, Any] = {
        "seconds": params.get("seconds", ctx.seconds),
        "batch": fixed or TrainSettings.batch,
        "least_batch": fixed or TrainSettings.least_batch,
        "temperature": float(params["temperature"]),
        "label_weight": float(params["labels"]),
        "examples": params.get("rows", "auto"),
        "task": "cosine" if ctx.metric == "cosine" else "auto",
        # All cores, whatever one inference will have.
        "threads": len(ctx.target.machine.cpus) or None,
        "teacher_cache": outputs / f"teacher-{form}-{teacher.digest[:16]}-{data.digest[:16]}",
    }
    return TrainSettings(**{**given, **more})
