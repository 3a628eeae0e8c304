"""One step of a training run: a batch's gradients, within the memory, and the optimizer's move."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from strop.errors import NotApplicable
from strop.models.module_form import describe_error
from strop.training.loader import Batch, Loader
from strop.training.memory import checkpoint_blocks, is_out_of_memory
from strop.training.objective import Objective
from strop.training.settings import TrainSettings

Emit = Callable[[str], None]
_LONGEST_GRADIENT = 5.0
_NO_GRADIENT = (
    "cannot be trained: no gradient reaches its parameters, as something between them and the "
    "outputs is not differentiable"
)


class Stepper:
    """Moves a student by one batch at a time.

    Parameters
    ----------
    after_step
        Called with the student after every move.

    Attributes
    ----------
    precision
        As `strop.training.precision` names it; set it with :meth:`compute_in`.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        loader: Loader,
        settings: TrainSettings,
        device: torch.device,
        emit: Emit,
        after_step: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self._student, self._objective, self._loader = student, objective, loader
        self._settings, self._device, self._emit = settings, device, emit
        self._after_step = after_step
        self._parameters = _trainable(student, emit)
        self._parts = 1
        self._told = False
        self._uncheckpoint: Callable[[], None] | None = None
        self.precision = "float32"

    def compute_in(self, precision: str) -> None:
        """Numbers and layout to compute with from now on."""
        self.precision = precision
        last = precision.endswith("channels last")
        layout = torch.channels_last if last else torch.contiguous_format
        self._student.to(memory_format=layout)

    def optimizer(self, rate: float) -> torch.optim.Optimizer:
        """A new one; weights of more than one dimension decay."""
        decayed = [p for p in self._parameters if p.ndim > 1]
        plain = [p for p in self._parameters if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self._settings.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate)

    def step(self, optimizer: torch.optim.Optimizer, rows: np.ndarray, number: int) -> float:
        """Train on the examples `rows` as step `number`; the loss.

        Raises
        ------
        NotApplicable
            When the loss is not finite.
        """
        optimizer.zero_grad(set_to_none=True)
        loss = self._backward(rows, number)
        if not math.isfinite(loss):
            raise NotApplicable(
                f"training diverged at step {number}: the loss is {loss} "
                f"(learning rate {optimizer.param_groups[0]['lr']:.2g})"
            )
        nn.utils.clip_grad_norm_(self._parameters, _LONGEST_GRADIENT)
        optimizer.step()
        if self._after_step is not None:
            self._after_step(self._student)
        return loss

    def seconds(self, rows: np.ndarray, number: int) -> float:
        """How long the gradients of a batch take; nothing is moved."""
        began = time.monotonic()
        self._backward(rows, number)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self._student.zero_grad(set_to_none=True)
        return time.monotonic() - began

    def close(self) -> None:
        """Leave the student as a caller expects it: on the CPU, evaluating, without hooks."""
        if self._uncheckpoint is not None:
            self._uncheckpoint()
        self._student.to(self._device, memory_format=torch.contiguous_format).cpu().eval()
        self._student.zero_grad(set_to_none=True)

    def _backward(self, rows: np.ndarray, number: int) -> float:
        """Gradients of one batch, in parts where memory is short."""
        while True:
            try:
                self._student.train()
                _keep_frozen_statistics(self._student)
                total = 0.0
                for part in np.array_split(rows, self._parts):
                    batch = self._loader.read(part, step=number)
                    loss = self._loss(batch) * (len(part) / len(rows))
                    _differentiate(loss)
                    total += float(loss.detach())
                self._tell_unreached()
                return total
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or not self._save_memory(len(rows)):
                    raise
                self._student.zero_grad(set_to_none=True)

    def _tell_unreached(self) -> None:
        """Say once how many parameters get no gradient."""
        if self._told:
            return
        self._told = True
        named = self._student.named_parameters()
        trained = [(name, p) for name, p in named if any(p is one for one in self._parameters)]
        names = [name for name, parameter in trained if parameter.grad is None]
        if len(names) == len(trained):
            raise NotApplicable(_NO_GRADIENT)
        if names:
            self._emit(
                f"no gradient reaches {len(names)} of {len(trained)} parameters, {names[0]!r} "
                "first: they stay as they are"
            )

    def _loss(self, batch: Batch) -> torch.Tensor:
        if self.precision.endswith("channels last"):
            inputs = {
                n: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t
                for n, t in batch.inputs.items()
            }
            batch = Batch(batch.rows, inputs, batch.targets)
        half = self.precision.startswith("bfloat16")
        with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            return self._objective(self._student, batch)

    def _save_memory(self, batch: int) -> bool:
        """Make the next attempt at a step need less; False when nothing is left to try."""
        if self._uncheckpoint is None:
            self._uncheckpoint = checkpoint_blocks(self._student)
            if self._uncheckpoint is not None:
                self._emit("memory is short: activations are computed again on the way back")
                return True
        if batch // (2 * self._parts) < 2:
            return False
        self._parts *= 2
        self._emit(f"memory is short: a step goes in {self._parts} parts")
        return True


def _differentiate(loss: torch.Tensor) -> None:
    """Gradients of `loss`; NotApplicable where an operation has none."""
    if not loss.requires_grad:
        raise NotApplicable(_NO_GRADIENT)
    try:
        loss.backward()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise NotApplicable(f"cannot be trained: {describe_error(error)}") from error


def _trainable(student: nn.Module, emit: Emit) -> list[nn.Parameter]:
    """Parameters to train: those that are not frozen; all where all are, as in a served module."""
    floats = [p for p in student.parameters() if p.is_floating_point()]
    if not floats:
        raise NotApplicable("the module has no parameters to train")
    free = [p for p in floats if p.requires_grad]
    if not free:
        emit("every parameter is frozen: all are trained, as the module was made for inference")
        for parameter in floats:
            parameter.requires_grad_(True)
        return floats
    if len(free) < len(floats):
        emit(f"{len(floats) - len(free)} of {len(floats)} parameters are frozen and stay so")
    return free


def _keep_frozen_statistics(student: nn.Module) -> None:
    """Normalisation whose weights are frozen keeps its statistics too."""
    for part in student.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            weights = list(part.parameters(recurse=False))
            if weights and not any(w.requires_grad for w in weights):
                part.eval()
