"""What a student is judged by while it trains: examples that it does not learn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from strop import metrics
from strop.data import Dataset
from strop.errors import StropError
from strop.metrics import Metric
from strop.models.module_form import ModuleForm
from strop.training.loader import Loader, full_batches
from strop.training.losses import Kind, labels_for, quality_of
from strop.training.teacher import TeacherOutputs

_SET_BYTES = 2**28
_DECIDED = ("classes", "probabilities")


class Judge:
    """Quality of a student on some rows, higher is better.

    The metric that judges the search is taken where it tells one student from another: one that
    is clipped to [0, 1] says the same of all that are far off, so numbers and graphs of values are
    judged by closeness without a bound. Without a metric, or where it is the user's own code,
    classes are judged by the labels, else by the teacher's decisions.

    Parameters
    ----------
    rows
        Of `data`, those to judge by.
    teacher
        Its outputs on them; None without a teacher.
    kinds
        What each output holds, by name.
    labelled
        The output that the targets are class numbers of; None where they are not to be used.
    batch
        Examples at a time.
    metric
        Name of a registered metric; empty for none.
    """

    def __init__(
        self,
        form: ModuleForm,
        data: Dataset,
        rows: np.ndarray,
        loader: Loader,
        teacher: TeacherOutputs | None,
        kinds: Mapping[str, Kind],
        *,
        labelled: str | None,
        batch: int,
        metric: str = "",
    ) -> None:
        self._form, self._data, self._rows, self._loader = form, data, rows, loader
        self._teacher, self._kinds, self._batch = teacher, kinds, batch
        self._labelled = labelled if data.has_target else None
        self._output = self._labelled or next(
            (name for name, kind in kinds.items() if kind in _DECIDED), form.outputs[0]
        )
        self._metric = self._resolved(metric)

    @property
    def name(self) -> str:
        """What is measured: the metric, or ``accuracy``, ``agreement``, ``closeness``."""
        if self._metric is not None:
            return self._metric.name
        if self._kinds[self._output] in _DECIDED:
            return "accuracy" if self._labelled else "agreement"
        return "closeness"

    def __call__(self, student: nn.Module) -> float:
        """The quality of `student`, in evaluation mode."""
        student.eval()
        with torch.inference_mode():
            if self._metric is not None:
                return self._by_metric(self._metric, student)
            return self._by_output(student)

    def _by_output(self, student: nn.Module) -> float:
        name, found = self._output, []
        for rows, count in self._batches():
            part = self._loader.read(rows)
            output = self._form.run(student, part.inputs)[name]
            labels = wanted = None
            if self._labelled:
                labels = labels_for(self._kinds[name], output, part.targets)
            if labels is None and self._teacher is not None:
                wanted = self._teacher(rows, part.inputs)[name]
            found.append(quality_of(self._kinds[name], output, wanted, labels)[:count].cpu())
        return float(torch.cat(found).nanmean())

    def _by_metric(self, metric: Metric, student: nn.Module) -> float:
        scores, kept = [], []
        for rows, count in self._batches():
            inputs = self._loader.read(rows).inputs
            outputs = _plain(self._form.run(student, inputs), count)
            wanted = _plain(self._teacher_on(rows, inputs), count)
            if metric.kind == "set":
                kept.append((outputs, wanted))
            else:
                targets = self._data.targets(rows[:count])
                scores.append(metric.scores(outputs, targets, wanted))
        if metric.kind != "set":
            return float(np.concatenate(scores).mean())
        mine, theirs = (
            {name: np.concatenate([part[side][name] for part in kept]) for name in kept[0][side]}
            for side in (0, 1)
        )
        return float(metric.value(mine, self._data.targets(self._rows), theirs))

    def _resolved(self, name: str) -> Metric | None:
        """The metric by name, if it fits what is at hand and tells students apart."""
        if not name or self._kinds[self._output] == "values":
            return None
        if self._teacher is None:
            return None
        rows, count = next(self._batches())
        with torch.inference_mode():
            answers = self._teacher_on(rows, self._loader.read(rows).inputs)
        outputs = _plain(answers, count)
        try:
            found = metrics.resolve(
                name,
                outputs=outputs,
                has_target=self._data.has_target,
                targets=self._data.targets(rows[:count]),
            )
        except StropError:  # the user's own code, which is not run here, or for other outputs
            return None
        size = sum(array[:1].nbytes for array in outputs.values()) * len(self._rows)
        return None if found.kind == "set" and size > _SET_BYTES else found

    def _teacher_on(
        self, rows: np.ndarray, inputs: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        assert self._teacher is not None
        return self._teacher(rows, inputs)

    def _batches(self) -> Iterator[tuple[np.ndarray, int]]:
        return full_batches(self._rows, self._batch)


def _plain(outputs: Mapping[str, torch.Tensor], count: int) -> dict[str, np.ndarray]:
    return {
        name: (value.float() if value.is_floating_point() else value)[:count].cpu().numpy()
        for name, value in outputs.items()
    }
