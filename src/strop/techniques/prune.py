"""Structured pruning: whole channels, heads, neurons and residual blocks go, and training heals."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import ModelError, NotApplicable
from strop.models.model import Model
from strop.models.module_plan import Op, apply_plan
from strop.records import Applicability, Choice, Space, Target
from strop.techniques._base import Context, Technique
from strop.techniques.fixed_batch import fixed_batch
from strop.techniques.sensitivity import cached
from strop.techniques.shrinking import can_shrink
from strop.techniques.teaching import train_settings
from strop.techniques.widths import conditions, rewarded_step, speedup

if TYPE_CHECKING:
    from torch import Tensor, nn

    from strop.data import Dataset
    from strop.models.module_form import ModuleForm
    from strop.training import TrainReport

WORTHWHILE = 1.05
"""A pruning that makes the network less than so many times faster is not trained."""
EPOCHS = 30.0
"""Passes over the training rows at most, over all rounds."""
_TRACED, _SCORED, _STATISTICS = 2, 512, 1024
_BATCH = 64


class Pruning(Technique):
    """Takes out what matters least and recovers the rest with the original as teacher.

    Channels go in groups along the dependency graph (`strop.techniques.dependency`), least
    important first (`strop.techniques.importance`), to counts that the engine rewards
    (`strop.techniques.widths`). The smaller network is timed before it is trained: what the
    engine does not reward ends there. After each round the statistics of batch normalisation are
    estimated anew and the network is trained.

    Parameters of the space
    -----------------------
    ratio
        Share of the channels to take out.
    blocks
        Share of the residual blocks to take out first, those whose loss changes least.
    scope
        ``global`` ranks the channels of all layers together, ``layer`` takes the same share of
        each.
    importance
        ``taylor``, ``magnitude`` or ``bn``.
    rounds
        Of pruning and recovery.
    temperature, labels, rows
        Of the distillation that recovers, as in `distil`.
    """

    name = "prune"
    version = 6
    consumes = "module"
    produces = ("module", "onnx")
    roles = ("train", "search")
    packages = ("torch", "torch-pruning")
    stage = 2

    def applies(self, model: Model, target: Target) -> Applicability:
        return can_shrink(model)

    def space(self, model: Model, target: Target) -> Space:
        return Space(
            choices=(
                Choice(name="ratio", values=(0.5, 0.75, 0.3)),
                Choice(name="blocks", values=(0.0,)),
                Choice(name="scope", values=("global",)),
                Choice(name="importance", values=("taylor",)),
                Choice(name="rounds", values=(2,)),
                Choice(name="temperature", values=(4.0,)),
                Choice(name="labels", values=(0.3,)),
                Choice(name="rows", values=("auto",)),
            )
        )

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        from strop.models.module_form import open_module
        from strop.models.module_writer import write_module

        data = ctx.data["train"]
        form, module = open_module(model)
        pruner = _Pruner(model, module, form, params, ctx)
        module = pruner.run()
        # Before the digest is taken: it is over everything in the directory.
        shutil.rmtree(ctx.workdir / "scratch", ignore_errors=True)
        try:
            return write_module(
                module,
                model,
                pruner.ops,
                ctx.workdir,
                examples=data.inputs(np.arange(min(8, len(data)))),
                meta={"prune": pruner.facts()},
                emit=ctx.emit,
            )
        except ModelError as error:
            raise NotApplicable(f"the pruned module cannot be exported: {error.message}") from error


class _Pruner:
    """One call of :meth:`Pruning.apply`."""

    def __init__(
        self,
        model: Model,
        module: nn.Module,
        form: ModuleForm,
        params: Mapping[str, Any],
        ctx: Context,
    ) -> None:
        self._model, self._module, self._form = model, module, form
        self._params, self._ctx = params, ctx
        self._data: Dataset = ctx.data["train"]
        self.ops: list[Op] = []
        self._reports: list[TrainReport] = []
        self._facts: dict[str, Any] = {}

    def run(self) -> nn.Module:
        """The pruned and recovered module; `ops` are then what was done to it."""
        from strop.techniques.dependency import Dependencies

        whole = sum(p.numel() for p in self._module.parameters())
        step = self._step()
        inputs = self._tensors(np.arange(min(_TRACED, len(self._data))))
        if self._params["blocks"]:
            self._drop_blocks(float(self._params["blocks"]), inputs)
        rounds = max(int(self._params["rounds"]), 1) if self._params["ratio"] else 0
        widths: dict[str, int] = {}
        for number in range(1, rounds + 1):
            dependencies = Dependencies(self._module, self._form, inputs)
            if not dependencies.groups:
                reason = next(iter(dependencies.refused.values()), "it has no layers to prune")
                raise NotApplicable(f"no channel can be taken out: {reason}")
            widths = widths or {g.root: len(g.units) for g in dependencies.groups}
            ratio = float(self._params["ratio"]) * number / rounds
            chosen = self._choose(dependencies.groups, widths, ratio, step)
            if any(chosen.values()):
                self._change(dependencies.remove(chosen))
            if number == 1:
                self._facts["refused"] = dependencies.refused
                self._worthwhile(widths, step, inputs)
            self._estimate_statistics()
            self._recover(number, rounds)
        if not self.ops:
            raise NotApplicable(f"no width below is a multiple of {step}, which the engine wants")
        if not rounds:
            self._estimate_statistics()
            self._recover(1, 1)
        left = sum(p.numel() for p in self._module.parameters())
        self._facts |= {"parameters_before": whole, "parameters_after": left, "step": step}
        return self._module

    def facts(self) -> dict[str, Any]:
        """Plain values for the model's meta."""
        return {
            **{name: self._params[name] for name in ("ratio", "blocks", "scope", "importance")},
            **self._facts,
            "recovery": [report.facts() for report in self._reports],
        }

    def _step(self) -> int:
        """The step of widths that the engine rewards; measured once for all recipes."""
        target = self._ctx.target
        file = self._ctx.workdir.parent / "rewarded-widths.json"
        scratch = self._ctx.workdir / "scratch" / "widths"
        measured = cached(
            file, conditions(target), lambda: {"step": rewarded_step(target, scratch)}
        )
        return int(measured["step"])

    def _choose(
        self, groups: Any, widths: Mapping[str, int], ratio: float, step: int
    ) -> dict[str, list[int]]:
        """By root, the units to take out so that `ratio` of what there was at first is gone."""
        from strop.techniques.importance import counts, unit_scores

        scores = unit_scores(
            self._module, self._form, groups, self._params["importance"], self._batches(_SCORED)
        )
        keep = counts(
            {root: value.numpy() for root, value in scores.items()},
            {group.root: len(group.units[0]) for group in groups},
            widths,
            ratio,
            step,
            everywhere=self._params["scope"] == "layer",
        )
        return {
            root: np.sort(np.argsort(value.numpy(), kind="stable")[: len(value) - keep[root]])
            .astype(int)
            .tolist()
            for root, value in scores.items()
        }

    def _worthwhile(
        self, widths: Mapping[str, int], step: int, inputs: Mapping[str, Tensor]
    ) -> None:
        """Time the network at the final ratio, untrained; refuse what gains nothing."""
        from strop.models.module_writer import write_module
        from strop.techniques.dependency import Dependencies

        module, ops = copy.deepcopy(self._module), list(self.ops)
        if int(self._params["rounds"]) > 1:
            dependencies = Dependencies(module, self._form, inputs)
            ratio = float(self._params["ratio"])
            chosen = self._choose(dependencies.groups, widths, ratio, step)
            if any(chosen.values()):
                op = dependencies.remove(chosen)
                module, ops = apply_plan(module, [op]).eval(), [*ops, op]
        if not ops:
            raise NotApplicable(f"no width below is a multiple of {step}, which the engine wants")
        scratch = self._ctx.workdir / "scratch" / "untrained"
        size = fixed_batch(self._model.signature) or self._ctx.target.batch
        examples = self._data.inputs(np.arange(max(size, 2)) % len(self._data))
        after = write_module(module, self._model, ops, scratch / "model", examples=examples)
        given = {n: a[:size] if a.ndim else a for n, a in examples.items()}
        times = speedup(self._model, after, given, self._ctx.target, scratch)
        if times < WORTHWHILE:
            raise NotApplicable(
                f"the engine does not reward it: {self._params['ratio']:.0%} fewer channels make "
                f"it {times:.2f} times as fast"
            )
        self._ctx.emit(f"pruned, it is {times:.1f} times as fast; now it is trained")

    def _drop_blocks(self, share: float, inputs: Mapping[str, Tensor]) -> None:
        from strop.models.module_plan import drop_op
        from strop.techniques.shallow import least_needed, removable
        from strop.techniques.smaller import check

        names = removable(self._module, self._form, inputs)
        count = round(share * len(names))
        if not count:
            raise NotApplicable(f"there are {len(names)} blocks that could go")
        examples = (batch for batch, _ in self._batches(_BATCH))
        op = drop_op(least_needed(self._module, self._form, inputs, names, count, examples))
        check(self._module, op, self._form, inputs)
        self._facts["dropped"] = op["names"]
        self._change(op)

    def _change(self, op: Op) -> None:
        self._module = apply_plan(self._module, [op]).eval()
        self.ops.append(op)

    def _estimate_statistics(self) -> None:
        """Batch normalisation's means and variances, which the missing channels have changed."""
        import torch
        from torch import nn

        norms = [
            m for m in self._module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
        ]
        norms = [m for m in norms if m.track_running_stats]
        if not norms:
            return
        before = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # an average over all that is seen
            norm.train()
        try:
            with torch.no_grad():
                for inputs, _ in self._batches(_STATISTICS):
                    self._form.run(self._module, inputs)
        finally:
            for norm, momentum in zip(norms, before, strict=True):
                norm.momentum = momentum
            self._module.eval()

    def _recover(self, number: int, rounds: int) -> None:
        """Train; the last round has half of the time, those before share the rest."""
        from strop.models.module_form import open_module
        from strop.training import train

        ctx = self._ctx
        share = 1.0 if rounds == 1 else 0.5 if number == rounds else 0.5 / (rounds - 1)
        seconds = None if ctx.seconds is None else ctx.seconds * share
        deadline = ctx.deadline
        if deadline is not None and number < rounds:
            deadline = min(deadline, time.monotonic() + (deadline - time.monotonic()) * share)
        _, teacher = open_module(ctx.teacher or self._model)
        settings = train_settings(
            self._model, self._data, self._params, ctx, seconds=seconds, epochs=EPOCHS * share
        )
        report = train(
            self._module,
            form=self._form,
            teacher=teacher,
            data=self._data,
            settings=settings,
            workdir=(ctx.keep or ctx.workdir / "scratch") / f"prune-{number}",
            deadline=deadline,
            seed=ctx.seed,
            emit=ctx.emit,
            judge=ctx.data.get("search"),
            metric=ctx.metric,
        )
        self._reports.append(report)

    def _batches(self, rows: int) -> Iterator[tuple[dict[str, Tensor], Tensor | None]]:
        import torch

        chosen = np.random.default_rng([self._ctx.seed, 11]).permutation(len(self._data))[:rows]
        size = fixed_batch(self._model.signature) or _BATCH
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            if len(part) < min(size, len(chosen)):
                break
            targets = self._data.targets(part)
            labels = None
            if targets is not None and targets.dtype.kind in "iu" and targets.ndim == 1:
                labels = torch.from_numpy(targets.astype(np.int64))
            yield self._tensors(part), labels

    def _tensors(self, rows: np.ndarray) -> dict[str, Tensor]:
        from strop.models.module_export import as_tensors

        return as_tensors(self._data.inputs(rows), self._form.inputs)
