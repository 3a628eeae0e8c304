"""One step of a training run: a batch's gradients, within the memory, and the optimizer's move."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from strop.errors import NotApplicable, StropError
from strop.models.module_form import describe_error
from strop.training.loader import Batch, Loader
from strop.training.memory import checkpoint_blocks, is_out_of_memory
from strop.training.objective import Objective
from strop.training.settings import TrainSettings

Emit = Callable[[str], None]
_LONGEST_GRADIENT = 5.0
_FITS = 1e-6
"""A loss below is none: the student gives what is wanted, and every gradient is zero."""
_UNTRAINED = "what trains nothing still applies"
_NO_GRADIENT = (
    "cannot be trained: no gradient reaches its parameters, as something between them and the "
    "outputs is not differentiable"
)


class Diverged(NotApplicable):
    """The loss is not finite, although what it is computed from is."""


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
    notes
        What was said of parameters that are not trained; complete after one batch.
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
        self.notes: list[str] = []
        self._parameters = _trainable(student, self._note)
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
        Diverged
            When the loss is not finite.
        NotApplicable
            When one of the examples is not, or the user's code fails.
        """
        optimizer.zero_grad(set_to_none=True)
        loss = self._backward(rows, number)
        if not math.isfinite(loss):
            self._refuse_what_is_not_finite(rows)
            raise Diverged(
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
                self._tell_unreached(total)
                return total
            except StropError:
                raise
            except Exception as error:  # the user's forward and backward raise anything
                if not is_out_of_memory(error):
                    raise NotApplicable(
                        f"cannot be trained: {describe_error(error)}", hint=_UNTRAINED
                    ) from error
                if not self._save_memory(len(rows)):
                    raise
                self._student.zero_grad(set_to_none=True)

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self._emit(line)

    def _tell_unreached(self, loss: float) -> None:
        """Say once how many parameters get no gradient.

        An operation that is flat wherever it has a derivative, rounding say, gives zeros. So
        does a student with nothing to learn.
        """
        if self._told or not math.isfinite(loss) or abs(loss) < _FITS:
            return
        self._told = True
        named = self._student.named_parameters()
        trained = [(name, p) for name, p in named if any(p is one for one in self._parameters)]
        names = [name for name, parameter in trained if not _is_reached(parameter)]
        if not any(p.grad is not None and bool(p.grad.any()) for _, p in trained):
            raise NotApplicable(_NO_GRADIENT, hint=_UNTRAINED)
        if names:
            self._note(
                f"no gradient reaches {len(names)} of {len(trained)} parameters, {names[0]!r} "
                "first: they learn nothing"
            )

    def _refuse_what_is_not_finite(self, rows: np.ndarray) -> None:
        """Name an example among `rows` that no network could learn from."""
        inputs = self._loader.read(rows).inputs
        if (found := _not_finite(inputs, rows)) is not None:
            raise NotApplicable(
                f"training example {found[0]} holds NaN or infinity in '{found[1]}'",
                hint="leave such examples out",
            )
        answers = self._objective.answers(rows) if self._objective.teaches else {}
        if (found := _not_finite(answers, rows)) is not None:
            raise NotApplicable(
                f"for training example {found[0]} the original gives NaN or infinity in "
                f"'{found[1]}'",
                hint="leave such examples out",
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
    """Gradients of `loss`; NotApplicable where nothing in it has any."""
    if not loss.requires_grad:
        raise NotApplicable(_NO_GRADIENT, hint=_UNTRAINED)
    loss.backward()


def _not_finite(tensors: Mapping[str, torch.Tensor], rows: np.ndarray) -> tuple[int, str] | None:
    """The first of `rows` whose values are not all finite, and the tensor's name."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            wrong = ~tensor.isfinite().reshape(len(rows), -1).all(1).cpu().numpy()
            if wrong.any():
                return int(rows[wrong][0]), name
    return None


def _is_reached(parameter: nn.Parameter) -> bool:
    """Whether a gradient came; one of zeros is none for a matrix or a kernel."""
    if parameter.grad is None:
        return False
    # A bias in front of a normalisation has a gradient of nothing by right.
    return parameter.ndim < 2 or bool(parameter.grad.any())


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
