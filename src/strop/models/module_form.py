"""The `module` form: where an `nn.Module` comes from, and how named tensors go through it."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from strop.errors import MissingExtra, ModelError, TrustError
from strop.models import module_files
from strop.models.model import Model, ModuleSource
from strop.models.user_code import is_user_code, load_function

_QUOTED_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass(frozen=True)
class ModuleForm:
    """What ``module/module.json`` holds: enough to call the module by names.

    Attributes
    ----------
    spec
        ``file.py:callable`` or what holds the module (`strop.models.module_files`), with an
        absolute path; None for a module made in Python.
    live
        Whether the module was made in Python: it then travels as `ModuleSource.payload`.
    inputs
        Names of forward's arguments, in the model's order.
    outputs
        Names of the outputs as the model's signature spells them.
    keys
        For each output, its place in what forward returns, as :func:`flatten` names it.
    digest
        sha256 over weights, structure and (for a spec) the source file.
    plan
        What was done to the module since, in order (`strop.models.module_plan`); its weights then
        lie beside ``module.json`` in ``state.safetensors``.
    """

    spec: str | None
    live: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    keys: tuple[str, ...]
    digest: str
    plan: tuple[dict[str, Any], ...] = ()

    @classmethod
    def read(cls, path: Path) -> ModuleForm:
        """The form in the file ``module.json`` at `path`."""
        try:
            values = json.loads(path.read_bytes())
            values.pop("schema")
            for name in ("inputs", "outputs", "keys", "plan"):
                values[name] = tuple(values.get(name, ()))
            if not all(isinstance(op, dict) for op in values["plan"]):
                raise ValueError("its plan is no list of operations")
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"'{path}' is not a module form: {error}") from error

    def check_trust(self, *, trust: bool) -> None:
        """TrustError when opening the module may run code, and `trust` is False."""
        from strop.models import module_plan

        if trust:
            return
        own = None if module_plan.replaces(self.plan) else self.spec
        if module_plan.names_code(self.plan) or (own and is_user_code(own)):
            raise TrustError(
                "the model names Python code, which strop runs only when told to",
                hint="read its module/module.json and what that names, then pass --trust "
                "(trust=True in Python)",
            )
        if own:
            module_files.check_trust(Path(own), trust=False)

    def write(self, path: Path) -> None:
        """Write the form to the file at `path`, making its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schema": 1, **asdict(self)}, indent=1, ensure_ascii=False))

    def run(self, module: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Call `module` on named tensors; its output tensors by their names here.

        Raises
        ------
        ModelError
            When the module returns other tensors than it did when it was imported.
        """
        found = dict(flatten(call(module, self.inputs, [tensors[n] for n in self.inputs])))
        if missing := [key for key in self.keys if key not in found]:
            raise ModelError(
                f"the module no longer returns {', '.join(missing)} but {', '.join(found)}"
            )
        return {name: found[key] for name, key in zip(self.outputs, self.keys, strict=True)}


def open_module(model: Model) -> tuple[ModuleForm, Any]:
    """The module form of `model` and the `nn.Module` itself, in evaluation mode, on the CPU.

    A model that came as ONNX is converted (`strop.models.onnx_converter`).

    Raises
    ------
    ModelError
        When the model has no module form, or its module cannot be had here.
    """
    if "module" not in model.forms:
        if "onnx" not in model.forms:
            raise ModelError("the model has neither a PyTorch module nor an ONNX graph")
        from strop.models.onnx_converter import form_of, to_module

        return form_of(model.signature), to_module(model.forms["onnx"])
    path = model.forms["module"]
    form = ModuleForm.read(path)
    payload = model.source.payload if model.source else None
    return form, instantiate(ModuleSource(form.spec, payload if form.live else None), path.parent)


def instantiate(source: ModuleSource, folder: Path | None = None) -> Any:
    """The `nn.Module` that `source` describes, in evaluation mode.

    It runs the user's code: whoever calls it has made sure that the user trusts it.

    Parameters
    ----------
    folder
        The folder of the module form: its plan is applied and its weights are loaded. None gives
        the module as the source makes it.

    Raises
    ------
    ModelError
        When the file, the callable or its result is not what a spec promises, or the module is
        not the one that the plan was made for.
    """
    form = None if folder is None else ModuleForm.read(folder / "module.json")
    if form is None or folder is None or not form.plan:
        return _base(source)
    from strop.models import module_plan

    base = None if module_plan.replaces(form.plan) else _base(source)
    module = module_plan.apply_plan(base, form.plan, folder)
    if (folder / module_plan.STATE).is_file():
        module_plan.load_state(module, folder / module_plan.STATE)
    return module.eval()


def digest_of(module: Any, origin: str | None) -> str:
    """sha256 over a module's structure and weights, and the file that `origin` names."""
    import torch

    total = hashlib.sha256(repr(module).encode())
    if origin and (source := _source_of(origin)).is_file():
        total.update(source.read_bytes())
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in sorted(state.items()):
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        total.update(plain.numpy().tobytes())
    return total.hexdigest()


def _source_of(spec: str) -> Path:
    """The file that tells what a spec's module is, besides its structure and its weights."""
    if is_user_code(spec):
        return Path(spec.rpartition(":")[0])
    return Path(spec) / "config.json" if Path(spec).is_dir() else Path(spec)


def _base(source: ModuleSource) -> Any:
    """The module as the user's code or the pickle gives it, in evaluation mode."""
    if source.payload is not None:
        try:
            import cloudpickle
        except ImportError as error:
            raise MissingExtra("cloudpickle", extra="torch") from error
        try:
            return cloudpickle.loads(source.payload).eval()
        except Exception as error:  # unpickling runs the user's code
            raise ModelError(f"the module cannot be unpickled: {describe_error(error)}") from error
    if source.spec is None:
        raise ModelError("the module is not at hand", hint="import the model again")
    return build(source.spec).eval()


def build(spec: str) -> Any:
    """The module that a spec names: a call of ``file.py:callable``, or a file that holds one.

    Raises
    ------
    InputError
        When there is no such callable, or it fails, or it gives no module, or the file cannot be
        read.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", extra="torch") from error
    if not is_user_code(spec):
        return module_files.open_file(Path(spec))
    made = make(spec)
    if not isinstance(made, torch.nn.Module):
        name = f"{Path(spec).name}"
        raise ModelError(f"'{name}' gives a {type(made).__name__}", hint="return a torch.nn.Module")
    return made


def make(spec: str) -> Any:
    """What ``file.py:callable`` gives, whatever it is; what is a model already is not called.

    Raises
    ------
    InputError
        When there is no such callable, or it fails.
    """
    factory = load_function(spec, trust=True)
    made = factory.function
    # A module and an estimator can be called by name, too; a class of either makes one.
    if not isinstance(made, type) and any(hasattr(made, name) for name in ("state_dict", "fit")):
        return made
    try:
        return factory()
    except Exception as error:
        raise ModelError(
            f"'{factory}' fails: {describe_error(error)}", hint="it must run without arguments"
        ) from error


def call(module: Any, names: Sequence[str], values: Sequence[Any]) -> Any:
    """``module(name=value, …)``; arguments that are positional only go by position.

    Where forward has other names, all go by position: a converted graph's forward cannot spell
    every name that ONNX allows.
    """
    forward = getattr(module, "forward", module)
    by_place, known = _arguments(getattr(forward, "__func__", forward))
    if known is not None and not known.issuperset(names):
        return module(*values)
    given = dict(zip(names, values, strict=True))
    places = [given.pop(name) for name in names if name in by_place]
    return module(*places, **given)


def flatten(result: Any) -> list[tuple[str, Any]]:
    """The tensors in what forward returned, each with a name.

    Dictionaries, data classes and named tuples name their tensors; a lone tensor or a tuple's
    are ``output``, ``output_1``, ``output_2`` …; deeper ones add ``.key`` or ``.0``. What is no
    tensor (None, a cache object, a number) is left out.

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(1)
    >>> [name for name, _ in flatten((x, x))], [name for name, _ in flatten({"y": x, "s": [x]})]
    (['output', 'output_1'], ['y', 's.0'])
    """
    import torch

    if isinstance(result, torch.Tensor):
        return [("output", result)]
    found: list[tuple[str, Any]] = []
    for key, value in _children(result) or ():
        name = key if isinstance(key, str) else f"output_{key}" if key else "output"
        found.extend(_leaves(name, value))
    return found


def describe_error(error: BaseException) -> str:
    """The first line of an error, and the user's own ``file.py:line`` where it shows.

    The place is looked for in the message, where `torch.export` quotes the user's frames, and in
    the traceback; the innermost wins.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = type(error).__name__
    if lines:
        text = lines[0].rstrip(". :")[:300]
        if len(text) < 25:  # KeyError('x') reads 'x' and nothing else
            text = f"{type(error).__name__}: {text}"
    frames = traceback.extract_tb(error.__traceback__)
    places = [(frame.filename, frame.lineno or 0) for frame in frames]
    places += [(file, int(line)) for file, line in _QUOTED_FRAME.findall(str(error))]
    own = [(Path(file).name, line) for file, line in places if not is_library(file)]
    return "{} ({}:{})".format(text, *own[-1]) if own else text


def is_library(file: str) -> bool:
    """Whether a source file belongs to Python, to an installed package or to strop itself."""
    paths = sysconfig.get_paths()
    roots = (paths["stdlib"], paths["platstdlib"], str(Path(__file__).parents[1]), "<")
    # strop's demo network is a user's file like any other, wherever it is installed.
    demo = str(Path(__file__).parents[1] / "demo")
    return (file.startswith(roots) or "-packages/" in file) and not file.startswith(demo)


@functools.lru_cache(maxsize=64)
def _arguments(forward: Callable[..., Any]) -> tuple[frozenset[str], frozenset[str] | None]:
    """The names that are positional only, and all names; None where any name is taken.

    Kept, because this takes longer than a small module, and eager is what speed is against.
    """
    parameters = inspect.signature(forward).parameters.values()
    by_place = frozenset(one.name for one in parameters if one.kind is one.POSITIONAL_ONLY)
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return by_place, None
    return by_place, frozenset(one.name for one in parameters)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
        return
    for key, inner in _children(value) or ():
        yield from _leaves(f"{name}.{key}", inner)


def _children(value: Any) -> list[tuple[str | int, Any]] | None:
    if isinstance(value, Mapping):
        return [(str(key), inner) for key, inner in value.items()]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    return None
