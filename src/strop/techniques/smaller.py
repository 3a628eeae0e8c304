"""What a module gives after an operation that made it smaller. Imports torch, so import it late."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from strop.errors import NotApplicable
from strop.models.module_form import ModuleForm, describe_error
from strop.models.module_plan import Op, apply_plan

Tensors = Mapping[str, Tensor]

_TOLERANCE = 1e-4


def check(module: nn.Module, op: Op, form: ModuleForm, inputs: Tensors) -> nn.Module:
    """The changed copy; NotApplicable unless it takes the inputs and gives outputs alike."""
    try:
        changed = apply_plan(copy.deepcopy(module), [op]).eval()
        with torch.no_grad():
            before, after = form.run(module.eval(), inputs), form.run(changed, inputs)
    except Exception as error:  # the user's forward may count on the old shapes
        raise NotApplicable(f"does not run when it is smaller: {describe_error(error)}") from error
    for name, value in before.items():
        if after[name].shape != value.shape:
            raise NotApplicable(f"its output '{name}' changes its shape when it is smaller")
    return changed


def without_weights(
    module: nn.Module, op: Op, form: ModuleForm, inputs: Tensors
) -> dict[str, Tensor]:
    """The outputs of the whole module with what a ``prune`` takes out set to zero."""
    silenced = sharing_copy(module).eval()
    with torch.no_grad():
        for name, kept in op["keep"].items():
            path, _, attribute = name.rpartition(".")
            owner = silenced.get_submodule(path) if path else silenced
            tensor = getattr(owner, attribute)
            for dim, indices in kept:
                gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
                gone[indices] = False
                tensor = tensor.index_fill(dim, gone.nonzero().reshape(-1), 0)
            if attribute in owner._parameters:
                tensor = nn.Parameter(tensor, requires_grad=False)
            setattr(owner, attribute, tensor)
        return form.run(silenced, inputs)


def are_close(found: Tensors, wanted: Tensors, like: Tensors) -> bool:
    """Whether outputs differ by rounding alone, beside the size of those in `like`."""
    for name, value in wanted.items():
        scale = max(float(like[name].abs().max()), 1e-6)
        if not float((found[name] - value).abs().max()) <= _TOLERANCE * scale:
            return False
    return True


def sharing_copy(module: nn.Module) -> nn.Module:
    """A copy whose layers are its own and whose tensors are the module's, which may be large."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
