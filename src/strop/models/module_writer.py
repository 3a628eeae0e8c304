"""A changed `nn.Module` written as a model: plan, weights, and a checked ONNX export."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import ModelError
from strop.models import module_plan
from strop.models.border import declare
from strop.models.model import Model, ModuleSource
from strop.models.module_form import ModuleForm, digest_of, instantiate
from strop.models.onnx_importer import few_examples, seal_onnx
from strop.models.parity import parity
from strop.models.runner import Runner

if TYPE_CHECKING:
    from strop.models.module_export import Exported

_OWN = ("module.json", module_plan.STATE)


def write_module(
    module: Any,
    before: Model,
    ops: Sequence[module_plan.Op],
    workdir: Path,
    *,
    examples: Mapping[str, np.ndarray],
    meta: Mapping[str, Any] | None = None,
    emit: Callable[[str], None] = lambda line: None,
) -> Model:
    """Write `module` into `workdir` as the forms ``module`` and ``onnx``, and seal it.

    What was written is opened again and compared with `module`, and the export is held against
    both, so that a plan that does not rebuild the module is found here.

    Parameters
    ----------
    before
        The model that `module` was made from.
    ops
        What was done to it since, as `strop.models.module_plan` spells it; may be empty for new
        weights alone.
    examples
        At least two rows of inputs by name, for the export and the comparisons.
    meta
        Facts added to those of `before`.

    Raises
    ------
    ModelError
        When it cannot be exported, or what was written gives other outputs.
    """
    from strop.models import module_export

    module = module.cpu().eval()
    form = ModuleForm.read(before.forms["module"])
    payload = before.source.payload if before.source else None
    plan = tuple(ops) if module_plan.replaces(ops) else (*form.plan, *ops)
    # Without an operation the plan would be empty, and the weights not looked for.
    plan = plan or (module_plan.WEIGHTS,)
    if module_plan.replaces(plan):  # the user's own module has no part in it any more
        form = dataclasses.replace(form, spec=None, live=False)
    form = dataclasses.replace(form, plan=plan, digest=digest_of(module, form.spec))
    folder = workdir / "module"
    shutil.copytree(
        before.forms["module"].parent, folder, ignore=lambda *_: _OWN, copy_function=_linked
    )
    form.write(folder / "module.json")
    module_plan.save_state(module, folder / module_plan.STATE)

    arrays = few_examples(before.signature, examples, None)
    again = instantiate(ModuleSource(form.spec, payload if form.live else None), folder)
    _compare(form, module, again, arrays)
    shapes: dict[str, list[int | str]] = {}
    for spec in before.signature.inputs:
        known = [dim for dim in spec.shape or () if dim is not None]
        if len(known) == len(spec.shape or ()) and any(isinstance(d, str) for d in known[1:]):
            shapes[spec.name] = known
    checks = {name: np.asarray(examples[name])[:8] for name in form.inputs}
    exported = _with_weights(form, module, folder, arrays) or module_export.export(
        module, form, arrays, checks=checks, shapes=shapes or None
    )
    facts = {**before.meta, **dict(meta or {}), "exporter": exported.method}
    model = seal_onnx(
        declare(exported.proto, before.signature) if "free" in exported.method else exported.proto,
        workdir,
        meta=facts,
        examples=arrays,
        shapes=shapes or None,
        source=before.source,
        emit=emit,
        free="fixed" in exported.method,
    )
    if model.signature != before.signature:
        raise ModelError(
            f"the changed module exports as {model.signature}, the original as {before.signature}"
        )
    return model


def _with_weights(
    form: ModuleForm, module: Any, folder: Path, arrays: Mapping[str, np.ndarray]
) -> Exported | None:
    """The graph that the module was converted from, with its new weights; None where it changed.

    Tracing the module would give another graph, and take long where sizes follow from one another.
    """
    if any(op not in (module_plan.CONVERT, module_plan.WEIGHTS) for op in form.plan):
        return None
    if module_plan.CONVERT not in form.plan:
        return None
    import torch

    from strop.models.module_export import Exported, as_arrays, as_tensors
    from strop.models.onnx_converter import with_weights

    proto = with_weights(folder / module_plan.BASE, module)
    if proto is None:
        return None
    with torch.no_grad():
        found = as_arrays(form.run(module, as_tensors(arrays, form.inputs)))
    return Exported(proto, "weights", ()) if parity(Runner(proto).run(arrays), found).ok else None


def _linked(source: str, target: str) -> None:
    """The same file under another name: a base graph is large, and no one changes it in place.

    Weights beside it are copied: `strop.models.onnx_file` reads none through a hard link.
    """
    if not source.endswith(".data"):
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(source, target)
            return
    shutil.copy2(source, target)


def _compare(form: ModuleForm, one: Any, other: Any, arrays: Mapping[str, np.ndarray]) -> None:
    import torch

    from strop.models.module_export import as_arrays, as_tensors

    with torch.no_grad():
        outputs = [
            as_arrays(form.run(module, as_tensors(arrays, form.inputs))) for module in (one, other)
        ]
    result = parity(*outputs)
    if not result.ok:
        raise ModelError(f"the plan does not rebuild the module: {result}")
