"""What was done to an `nn.Module` since its user made it, as plain data; no pickle on disk.

A plan is a list of operations. Applied in order to the module that the user's factory or payload
gives, they rebuild the changed module, whose weights then come from ``state.safetensors``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from strop.errors import MissingExtra, ModelError

Op = dict[str, Any]

STATE = "state.safetensors"
"""The file of weights and buffers, beside ``module.json``."""
BASE = "base.onnx"
"""The graph that a converted module starts from, beside ``module.json``."""
CONVERT: Op = {"op": "convert-onnx"}
"""The operation that starts from that graph (`strop.models.onnx_converter`)."""

WEIGHTS: Op = {"op": "weights"}
"""The operation of a module that has new weights and nothing else."""


def apply_plan(module: Any, plan: Sequence[Op], folder: Path | None = None) -> Any:
    """The module after all operations of `plan`.

    Parameters
    ----------
    module
        What the user's factory gave; None when the first operation makes its own.
    folder
        The folder of the module form, for operations that read files beside ``module.json``.

    Raises
    ------
    ModelError
        When an operation is unknown, or does not fit the module.
    """
    for op in plan:
        name = str(op.get("op"))
        if name not in _OPS:
            raise ModelError(
                f"the module's plan has the operation '{name}', which this strop does not know",
                hint="open it with the version that made it",
            )
        try:
            module = _OPS[name](module, op, folder)
        except (AttributeError, KeyError, IndexError, RuntimeError, TypeError) as error:
            raise ModelError(
                f"the module is not the one that was changed: '{name}' fails ({error})",
                hint="import the model again",
            ) from error
    return module


def replaces(plan: Sequence[Op]) -> bool:
    """Whether a plan begins with a module of its own instead of the user's."""
    return bool(plan) and plan[0].get("op") in _STARTERS


def names_code(plan: Sequence[Op]) -> bool:
    """Whether an operation runs a file of the user's."""
    return any(op.get("op") == _STUDENT for op in plan)


def save_state(module: Any, path: Path) -> None:
    """Write a module's weights and persistent buffers; tied ones once.

    Raises
    ------
    ModelError
        When the state is no plain tensors.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingExtra("safetensors", extra="torch") from error
    tensors: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in _tensors_of(module).items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        tensors[name] = tensor.detach().cpu().contiguous().clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(tensors, path, metadata={"aliases": json.dumps(aliases, sort_keys=True)})
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(f"the module's weights cannot be written: {error}") from error


def load_state(module: Any, path: Path) -> None:
    """Load what :func:`save_state` wrote, in place.

    Raises
    ------
    ModelError
        When names or shapes are not the module's.
    """
    import torch
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
    except Exception as error:  # safetensors raises its own and Rust's
        raise ModelError(f"'{path.name}' cannot be read: {error}") from error
    for name, original in aliases.items():
        state[name] = state[original]
    own = _tensors_of(module)
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [n for n in own.keys() & state.keys() if own[n].shape != state[n].shape]
    if wrong:
        raise ModelError(
            f"the weights are of another module: {', '.join(wrong[:5])}",
            hint="the file that makes the module was changed: import the model again",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def drop_op(names: Sequence[str]) -> Op:
    """The operation that leaves the blocks called `names` out (`strop.models.module_blocks`)."""
    return {"op": "drop-blocks", "names": list(names)}


def student_op(spec: str) -> Op:
    """The operation that starts from what ``file.py:fn`` gives instead of the user's module."""
    return {"op": _STUDENT, "spec": spec}


def prune_op(before: Any, marked: Any) -> Op:
    """The operation that keeps the slices that a pruning kept.

    Parameters
    ----------
    before
        The module before.
    marked
        A copy of it that was pruned after :func:`mark` had replaced its tensors' values by their
        own positions.

    Raises
    ------
    ModelError
        When the pruning did more than take slices.
    """
    tensors, keep = _named_tensors(before), {}
    for name, after in _named_tensors(marked).items():
        if name not in tensors:
            raise ModelError(f"pruning made a new tensor '{name}'")
        old = tuple(tensors[name].shape)
        if tuple(after.shape) != old:
            keep[name] = _kept(name, after, old)
    modules, attributes = dict(before.named_modules()), {}
    for name, module in marked.named_modules():
        old_values = _plain_attributes(modules[name])
        for attribute, value in _plain_attributes(module).items():
            if old_values.get(attribute) != value:
                attributes[f"{name}.{attribute}" if name else attribute] = value
    return {"op": "prune", "keep": keep, "attributes": attributes}


def mark(module: Any) -> None:
    """Replace each value of each parameter and buffer by its position in the tensor, in place.

    After a pruning of the module what is left says which slices were kept (:func:`prune_op`).
    """
    import torch

    done: set[int] = set()
    for tensor in _named_tensors(module).values():
        if id(tensor) not in done:
            done.add(id(tensor))
            places = torch.arange(tensor.numel(), dtype=torch.float64, device=tensor.device)
            tensor.data = places.reshape(tensor.shape)


def _prune(module: Any, op: Op, folder: Path | None) -> Any:
    """Take slices: ``keep`` has, by tensor, pairs of a dimension and the indices that stay."""
    import torch

    tensors = _named_tensors(module)
    done: dict[int, Any] = {}
    for name, slices in op["keep"].items():
        old = tensors[name]
        if id(old) not in done:
            new = old.detach()
            for dim, indices in slices:
                new = new.index_select(int(dim), torch.tensor(indices, device=new.device))
            if isinstance(old, torch.nn.Parameter):
                new = torch.nn.Parameter(new.clone(), requires_grad=old.requires_grad)
            done[id(old)] = new
        owner, attribute = _owner(module, name)
        registry = owner._parameters if attribute in owner._parameters else owner._buffers
        registry[attribute] = done[id(old)]
    for name, value in op.get("attributes", {}).items():
        owner, attribute = _owner(module, name)
        setattr(owner, attribute, tuple(value) if isinstance(value, list) else value)
    return module


def _drop_blocks(module: Any, op: Op, folder: Path | None) -> Any:
    from strop.models.module_blocks import leave_out

    for name in op["names"]:
        module = leave_out(module, name)
    return module


def _student(module: Any, op: Op, folder: Path | None) -> Any:
    from strop.models.module_form import build

    return build(op["spec"]).eval()


def _convert_onnx(module: Any, op: Op, folder: Path | None) -> Any:
    from strop.models.onnx_converter import to_module

    if folder is None:
        raise KeyError(BASE)
    return to_module(folder / BASE, check=False)


_STUDENT = "student"
_STARTERS = (_STUDENT, "convert-onnx")
_OPS: dict[str, Callable[[Any, Op, Path | None], Any]] = {
    "prune": _prune,
    "drop-blocks": _drop_blocks,
    _STUDENT: _student,
    "convert-onnx": _convert_onnx,
    "weights": lambda module, op, folder: module,
}


def _kept(name: str, marked: Any, shape: Sequence[int]) -> list[list[Any]]:
    """By dimension that shrank, the indices that stay; read off the positions in `marked`."""
    if marked.ndim != len(shape):
        raise ModelError(f"pruning changed the rank of '{name}'")
    kept, stride = [], 1
    for dim in reversed(range(len(shape))):
        if marked.shape[dim] != shape[dim]:
            line = marked[tuple(slice(None) if d == dim else 0 for d in range(len(shape)))]
            kept.append([dim, [(int(v) // stride) % shape[dim] for v in line.tolist()]])
        stride *= shape[dim]
    return kept


def _plain_attributes(module: Any) -> Mapping[str, Any]:
    """Sizes that layers keep beside their weights: numbers and tuples of numbers."""

    def plain(value: Any) -> bool:
        if isinstance(value, tuple):
            return all(type(item) is int for item in value)
        return type(value) is int

    values = {name: value for name, value in vars(module).items() if plain(value)}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}


def _named_tensors(module: Any) -> dict[str, Any]:
    """Parameters and buffers by every name they have, tied ones under each."""
    found = dict(module.named_parameters(remove_duplicate=False))
    found.update(module.named_buffers(remove_duplicate=False))
    return found


def _tensors_of(module: Any) -> dict[str, Any]:
    """The persistent state by name, without objects that a module adds of its own."""
    import torch

    state = module.state_dict(keep_vars=False)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _owner(module: Any, name: str) -> tuple[Any, str]:
    path, _, attribute = name.rpartition(".")
    return (module.get_submodule(path) if path else module), attribute
