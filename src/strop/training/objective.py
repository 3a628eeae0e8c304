"""What a student is trained for: its teacher's outputs, the labels, and what lies between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from strop.data import Dataset
from strop.errors import NotApplicable
from strop.models.module_form import ModuleForm
from strop.training.judge import Judge
from strop.training.loader import Batch, Loader, full_batches
from strop.training.losses import IGNORED, Kind, class_axis, kind_of, labels_for, output_loss
from strop.training.settings import TrainSettings
from strop.training.teacher import TeacherOutputs
from strop.training.transfer import Taps, match_layers, transfer_loss

Tensors = Mapping[str, torch.Tensor]
Loss = Callable[[Tensors, "Tensors | None", "torch.Tensor | None"], torch.Tensor]
"""Student's outputs, teacher's outputs and targets of a batch to a scalar to be minimised."""

_PROBE, _PROBE_BATCH = 512, 64


class Objective:
    """The loss of a batch under one teacher and one dataset.

    Parameters
    ----------
    teacher
        On the training device, in evaluation mode; None leaves the labels alone.
    folder
        Where the teacher's outputs are kept, within ``settings.cache_bytes``.
    loss
        Takes the place of the losses on the outputs.

    Attributes
    ----------
    kinds
        What each output holds; known after :meth:`prepare`, as is `labelled`.
    labelled
        The output that the targets are class numbers of, None where there is none.

    Raises
    ------
    NotApplicable
        When there is nothing to learn from, or the labels are not the outputs' classes.
    """

    def __init__(
        self,
        form: ModuleForm,
        teacher: nn.Module | None,
        data: Dataset,
        loader: Loader,
        settings: TrainSettings,
        folder: Path,
        loss: Loss | None = None,
    ) -> None:
        self._form = form
        self._teacher = teacher
        self._loader = loader
        self._settings = settings
        self._custom = loss
        self._pairs: list[tuple[str, str]] = []
        self._taps: tuple[Taps, Taps] | None = None
        self.warnings: list[str] = []
        self.labelled: str | None = None
        self._folder = settings.teacher_cache or folder / "teacher"
        self.cache = TeacherOutputs(
            self._folder,
            len(data),
            settings.cache_bytes,
            self._teach,
        )
        self._caches = [self.cache]
        self._judged: TeacherOutputs | None = None
        self.kinds: dict[str, Kind] = {}
        self._data = data

    def prepare(self, student: nn.Module) -> None:
        """Find out what the outputs mean and whether labels and teacher fit; match layers."""
        least = min(self._settings.least_batch, self._settings.batch)
        # A module that insists on its batch takes no other here either.
        size = max(min(_PROBE_BATCH, self._settings.batch), least)
        # At random: the examples may lie in the order of their classes.
        total = len(self._data)
        rows = np.sort(np.random.default_rng([0, 19]).permutation(total)[:_PROBE])
        parts = [(self._probe(student, part), count) for part, count in full_batches(rows, size)]
        outputs = {
            name: torch.cat([part[name][:count] for part, count in parts])
            for name in self._form.outputs
        }
        self.kinds = {n: kind_of(value, self._settings.task) for n, value in outputs.items()}
        self._check_labels(outputs, rows)
        if self._teacher is None and not (self.labelled or self._custom):
            raise NotApplicable("there is neither a teacher nor a label to learn from")
        if not self._custom and not any(one.is_floating_point() for one in outputs.values()):
            raise NotApplicable(
                "the model's outputs are whole numbers, and a student learns from the scores that "
                "decisions are made of: export the model with those"
            )
        if self._settings.transfer != "none" and self._teacher is not None:
            few = self._loader.read(np.resize(rows, least)).inputs
            self._pairs = match_layers(
                self._teacher, student, lambda module: self._form.run(module, few)
            )
            if not self._pairs:
                self.warnings.append(
                    "no layer of the student matches one of the original: only outputs are matched"
                )

    def open(self, student: nn.Module) -> None:
        """Hook the matched layers; :meth:`close` takes the hooks away."""
        if self._pairs and self._teacher is not None:
            self._taps = (
                Taps(self._teacher, [one for one, _ in self._pairs]),
                Taps(student, [other for _, other in self._pairs]),
            )

    def close(self) -> None:
        if self._taps is not None:
            for taps in self._taps:
                taps.close()
            self._taps = None

    def flush(self) -> None:
        """Make the teacher's outputs survive a kill."""
        for cache in self._caches:
            cache.flush()

    def __call__(self, student: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of `student` on a batch, with its graph."""
        wanted: Tensors | None = None
        if self._teacher is not None:
            live = self._settings.augment or self._taps is not None
            wanted = self._teach(batch.inputs) if live else self.cache(batch.rows, batch.inputs)
        outputs = self._form.run(student, batch.inputs)
        if self._custom is not None:
            total = self._custom(outputs, wanted, batch.targets)
        else:
            total = self._output_loss(outputs, wanted, batch.targets)
        if self._taps is not None:
            teacher_taps, student_taps = self._taps
            parts = [
                transfer_loss(
                    self._settings.transfer, teacher_taps.outputs[one], student_taps.outputs[other]
                )
                for one, other in self._pairs
            ]
            total = total + self._settings.transfer_weight * torch.stack(parts).mean()
        return total

    @property
    def teaches(self) -> bool:
        """Whether there is a teacher."""
        return self._teacher is not None

    def answers(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The teacher's outputs for the training examples `rows`."""
        return self.cache(rows, self._loader.read(rows).inputs)

    def judge(
        self, data: Dataset, rows: np.ndarray, loader: Loader, *, batch: int, metric: str = ""
    ) -> Judge:
        """What measures a student on `rows` of `data`; after :meth:`prepare`.

        Parameters
        ----------
        data
            The training examples, or others: their teacher's outputs are then kept beside.
        """
        cache: TeacherOutputs | None = self.cache
        labelled = self.labelled
        if data is not self._data:
            if self._judged is None:
                folder = self._folder / f"judge-{data.digest[:16]}"
                limit = self._settings.cache_bytes
                self._judged = TeacherOutputs(folder, len(data), limit, self._teach)
                self._caches.append(self._judged)
            cache = self._judged
            if labelled is None and not self._data.has_target and self._teacher is not None:
                labelled = self._fitting(loader, next(full_batches(rows, batch))[0])
        return Judge(
            self._form,
            data,
            rows,
            loader,
            cache if self._teacher is not None else None,
            self.kinds,
            labelled=labelled,
            batch=batch,
            metric=metric,
        )

    def _fitting(self, loader: Loader, rows: np.ndarray) -> str | None:
        """The output that the targets of other examples than the training's are classes of."""
        part = loader.read(rows)
        outputs = self._teach(part.inputs)
        return next(
            (n for n in outputs if labels_for(self.kinds[n], outputs[n], part.targets) is not None),
            None,
        )

    def _output_loss(
        self, outputs: Tensors, wanted: Tensors | None, targets: torch.Tensor | None
    ) -> torch.Tensor:
        parts = []
        for name in self._form.outputs:
            output, kind = outputs[name], self.kinds[name]
            if not output.is_floating_point():
                continue
            labels = None
            if name == self.labelled:
                labels = labels_for(kind, output, targets)
            if wanted is None and labels is None:
                continue
            parts.append(
                output_loss(
                    kind,
                    output,
                    output.detach() if wanted is None else wanted[name],
                    labels,
                    temperature=self._settings.temperature,
                    label_weight=1.0 if wanted is None else self._settings.label_weight,
                )
            )
        return torch.stack(parts).mean()

    def _teach(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        assert self._teacher is not None
        with torch.no_grad():
            return self._form.run(self._teacher, inputs)

    def _probe(self, student: nn.Module, rows: np.ndarray) -> dict[str, torch.Tensor]:
        batch = self._loader.read(rows)
        if self._teacher is not None:
            return self.cache(rows, batch.inputs)
        with torch.no_grad():
            return self._form.run(student.eval(), batch.inputs)

    def _check_labels(self, outputs: Tensors, rows: np.ndarray) -> None:
        """Choose the output that the labels are of; warn of, or refuse, what does not fit."""
        if not self._data.has_target:
            return
        given = self._loader.read(rows).targets
        for name, output in outputs.items():
            labels = labels_for(self.kinds[name], output, given)
            if labels is None:
                continue
            self._check_range(output.shape[class_axis(output)])
            self.labelled = name
            if self._teacher is None:
                return
            known = labels != IGNORED
            if not known.any():
                return
            right = (output.argmax(class_axis(output)) == labels)[known]
            share = float(right.float().mean())
            common = torch.unique(labels[known], return_counts=True)[1].max()
            if share < int(common) / len(right):
                self.labelled = None
                self.warnings.append(
                    f"the original is right on {share:.0%} of {len(rows)} training labels, less "
                    "than the commonest label alone would be: training follows the original and "
                    "leaves the labels out"
                )
            return
        targets = np.asarray(self._data.targets())
        self.warnings.append(
            f"the targets, {targets.dtype.name}{list(targets.shape)}, are no class numbers of an "
            "output (integers, one a decision): training leaves them"
        )

    def _check_range(self, classes: int) -> None:
        every = np.asarray(self._data.targets())
        wrong = (every != IGNORED) & ((every < 0) | (every >= classes))
        if wrong.any():
            row = int(np.argwhere(wrong)[0][0])
            raise NotApplicable(
                f"the label {every[wrong][0]} of training example {row} (one of "
                f"{int(wrong.sum())} such) is outside 0…{classes - 1}",
                hint=f"number classes as the model does; {IGNORED} says that there is no label",
            )
