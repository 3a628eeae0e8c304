"""`nn.Module` from Python or from ``file.py:callable``: exported to ONNX where it can be."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strop.errors import MissingExtra, ModelError, TrustError
from strop.models import graph, module_files
from strop.models.model import Model, ModuleSource
from strop.models.module_form import (
    ModuleForm,
    call,
    describe_error,
    digest_of,
    flatten,
    is_library,
    make,
)
from strop.models.onnx_importer import seal_onnx
from strop.models.sample import Shapes, random_inputs
from strop.records import Dim, Signature, TensorSpec

_RESERVED = ("target", "group", "time")
_RESERVED_PREFIX = "slice:"
_RESERVED_SUFFIX = ":lengths"


def open_source(source: Any, *, trust: bool = False) -> tuple[str | None, Any]:
    """The object that `source` names, and the spec that gives it again in another process.

    Parameters
    ----------
    source
        ``file.py:callable``, the `Path` of a file or folder that holds a module, or the object
        itself, which has no spec.

    Raises
    ------
    TrustError
        When the source may run code, and `trust` is False.
    InputError
        When there is nothing of that name, or it cannot be read.
    """
    if isinstance(source, Path):
        module_files.check_trust(source, trust=trust)
        return str(source.resolve()), module_files.open_file(source.resolve())
    if not isinstance(source, str):
        return None, source
    if not trust:
        raise TrustError(
            f"'{source}' is Python code, which strop runs only when you say so",
            hint="read it, then pass --trust (in Python: trust=True)",
        )
    file, _, name = source.rpartition(":")
    spec = f"{Path(file).expanduser().resolve()}:{name}"
    return spec, make(spec)


def import_module(
    module: Any,
    workdir: Path,
    *,
    origin: str | None = None,
    examples: Mapping[str, np.ndarray] | None = None,
    output_names: Sequence[str] | None = None,
    shapes: Shapes | None = None,
    emit: Callable[[str], None] = lambda line: None,
) -> Model:
    """A module as a sealed model: the module form, and the onnx form where export succeeds.

    `module` and `origin` are what :func:`open_source` gives, the other parameters those of
    :func:`strop.models.load`. ``meta`` tells ``exporter``, ``export_error``, ``was_training`` and
    what :func:`seal_onnx` tells.
    """
    _check(module, origin)
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        return _import(origin, module, modes[0][1], workdir, examples, output_names, shapes, emit)
    finally:
        for part, training in modes:
            part.training = training


def _import(
    origin: str | None,
    module: Any,
    was_training: bool,
    workdir: Path,
    examples: Mapping[str, np.ndarray] | None,
    output_names: Sequence[str] | None,
    shapes: Shapes | None,
    emit: Callable[[str], None],
) -> Model:
    from strop.models import module_export

    if was_training:
        emit("the module was in training mode; strop takes it in evaluation mode")
    source = ModuleSource(spec=origin) if origin else ModuleSource(payload=_payload(module, emit))
    if any(tensor.device.type != "cpu" for tensor in _state(module).values()):
        module = copy.deepcopy(module).cpu()
    candidates = _examples(module, examples, shapes)
    arrays, result = _first_run(module, candidates)
    outputs, keys = _outputs(result, output_names)
    form = ModuleForm(
        spec=origin,
        live=origin is None,
        inputs=tuple(arrays),
        outputs=outputs,
        keys=keys,
        digest=digest_of(module, origin),
    )
    form.write(workdir / "module" / "module.json")
    held = None
    if origin is not None:
        held = module_files.format_of(Path(origin))
        module_files.copy_processor(Path(origin), workdir)
    meta: dict[str, Any] = {
        "original_format": held or "module",
        "class": type(module).__name__,
        "was_training": was_training,
    }
    try:
        checks = {n: np.asarray(examples[n])[:8] for n in form.inputs} if examples else None
        exported = module_export.export(module, form, arrays, checks=checks, shapes=shapes)
    except ModelError as error:
        emit(f"no ONNX form: {error.message}")
        meta |= {"export_error": error.message, "quantised": False, "changes": []}
        signature = _signature(module, form, arrays)
        return Model.seal(workdir, signature, source=source, meta=meta)
    meta |= {
        "exporter": exported.method,
        "export_failures": list(exported.failures),
        "producer": exported.proto.producer_name,
    }
    return seal_onnx(
        exported.proto,
        workdir,
        meta=meta,
        examples=arrays,
        shapes=shapes,
        source=source,
        emit=emit,
        # A program takes the sizes that it was exported with and no others, whatever its graph can.
        free="fixed" in exported.method and held != "torch.export",
    )


def _check(module: Any, origin: str | None) -> None:
    if "torch" in sys.modules:
        import torch

        if isinstance(module, torch.nn.Module):
            if type(module).__module__.partition(".")[0] != "keras":
                return
            raise ModelError(
                "a Keras model is not taken as an object", hint="save it: model.save('net.keras')"
            )
    if origin is not None:
        raise ModelError(
            f"'{Path(origin).name}' gives a {type(module).__name__}",
            hint="return a torch.nn.Module or an estimator",
        )
    raise ModelError(
        f"a model is a path or an nn.Module, not a {type(module).__name__}",
        hint="pass an instance of the module" if isinstance(module, type) else None,
    )


def _examples(
    module: Any, examples: Mapping[str, np.ndarray] | None, shapes: Shapes | None
) -> list[dict[str, np.ndarray]]:
    """Arguments to try, in forward's order: the first examples, or random ones."""
    parameters = inspect.signature(module.forward).parameters
    named = [n for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    required = [n for n in named if parameters[n].default is inspect.Parameter.empty]
    given = list(examples if examples is not None else shapes or ())
    given = [name for name in given if name in named or not _is_reserved(name)]
    if not given:
        raise ModelError(
            "a module is traced on examples, and there are none",
            hint=f"give data, or the shapes of {', '.join(required) or 'its inputs'}",
        )
    unknown = [name for name in given if name not in named and not takes_any]
    missing = [name for name in required if name not in given]
    if unknown or missing:
        held = ", ".join(given)
        raise ModelError(
            f"forward takes ({', '.join(named)}) but the examples hold {held}",
            hint=f"name the arrays after forward's arguments (missing: {', '.join(missing)})"
            if missing
            else "rename or remove the others",
        )
    order = [n for n in named if n in given] + [n for n in given if n not in named]
    if examples is None:
        return [
            _random(order, shapes or {}, dtype, n) for dtype in ("float32", "int64") for n in (2, 1)
        ]
    arrays = {name: np.asarray(examples[name]) for name in order}
    if any(array.ndim and not len(array) for array in arrays.values()):
        raise ModelError("a module is traced on examples, and there are none")
    return [
        {n: np.resize(a, (rows, *a.shape[1:])) if a.ndim else a for n, a in arrays.items()}
        for rows in dict.fromkeys((2, 1, len(next(iter(arrays.values())))))
        if rows <= 64
    ]


def _random(names: Sequence[str], shapes: Shapes, dtype: str, rows: int) -> dict[str, np.ndarray]:
    def free(shape: Sequence[int | str]) -> tuple[Dim, ...]:
        return ("batch", *shape[1:]) if shape else ()

    specs = tuple(TensorSpec(name=n, dtype=dtype, shape=free(shapes[n])) for n in names)
    return random_inputs(Signature(inputs=specs, outputs=()), rows=rows)


def _first_run(
    module: Any, candidates: Sequence[dict[str, np.ndarray]]
) -> tuple[dict[str, np.ndarray], Any]:
    """The first arguments that the module takes, and what it returns for them."""
    import torch

    from strop.models.module_export import as_tensors

    failure: Exception | None = None
    for arrays in candidates:
        tensors = as_tensors(arrays, list(arrays))
        try:
            with torch.no_grad():
                return arrays, call(module, list(tensors), list(tensors.values()))
        except Exception as error:  # whatever the user's forward raises
            failure = failure or error
    assert failure is not None
    held = ", ".join(f"{n}: {a.dtype}{list(a.shape)}" for n, a in candidates[0].items())
    raise ModelError(
        f"the module fails on the first examples ({held}): {describe_error(failure)}"
    ) from failure


def _outputs(result: Any, wanted: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The outputs' names in the signature, and their keys in what forward returns."""
    keys = tuple(name for name, _ in flatten(result))
    if not keys:
        raise ModelError(f"the module returns a {type(result).__name__} without tensors")
    if not wanted:
        return keys, keys
    names = tuple(wanted)
    if len(set(names)) < len(names):
        raise ModelError(f"output names repeat: {', '.join(names)}")
    if set(names) <= set(keys):
        return names, names
    if len(names) != len(keys):
        raise ModelError(
            f"{len(names)} output names are given, but the module returns {len(keys)} tensors "
            f"({', '.join(keys)})"
        )
    return names, keys


def _signature(module: Any, form: ModuleForm, arrays: Mapping[str, np.ndarray]) -> Signature:
    """The signature seen from outside: what changes when a row is added is the batch."""
    import torch

    from strop.models.module_export import as_tensors

    def shapes(batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        with torch.no_grad():
            outputs: dict[str, Any] = form.run(module, as_tensors(batch, form.inputs))
            return outputs

    before = shapes(arrays)
    more = {n: np.concatenate([a, a[:1]]) if a.ndim else a for n, a in arrays.items()}
    try:
        after, given = shapes(more), more
    except Exception:  # the module takes this batch alone
        after, given = before, dict(arrays)

    def dims(one: Sequence[int], other: Sequence[int]) -> tuple[Dim, ...]:
        return tuple(a if a == b else "batch" for a, b in zip(one, other, strict=True))

    return Signature(
        inputs=tuple(
            TensorSpec(name=n, dtype=a.dtype.name, shape=dims(a.shape, given[n].shape))
            for n, a in arrays.items()
        ),
        outputs=tuple(
            TensorSpec(
                name=n,
                dtype=str(t.dtype).removeprefix("torch."),
                shape=dims(t.shape, after[n].shape),
            )
            for n, t in before.items()
        ),
    )


def _payload(module: Any, emit: Callable[[str], None]) -> bytes | None:
    """The module pickled; classes of the user's own files travel by value.

    A child process cannot import a notebook or a script, and may not find its folder.
    """
    try:
        import cloudpickle
    except ImportError as error:
        raise MissingExtra("cloudpickle", extra="torch") from error
    names = {type(part).__module__ for part in module.modules()}
    own = [sys.modules[name] for name in names if name in sys.modules and _is_own(name)]
    for entry in own:
        cloudpickle.register_pickle_by_value(entry)
    try:
        payload: bytes = cloudpickle.dumps(module)
        return payload
    except Exception as error:  # pickling runs the user's __reduce__
        emit(f"the module cannot travel to other processes: {graph.first_line(error)}")
        return None
    finally:
        for entry in own:
            cloudpickle.unregister_pickle_by_value(entry)


def _is_own(module: str) -> bool:
    """Whether a module is a loose file of the user's rather than an installed package."""
    file = getattr(sys.modules[module], "__file__", None)
    # cloudpickle sends __main__ by value of its own accord.
    return module != "__main__" and file is not None and not is_library(file)


def _state(module: Any) -> dict[str, Any]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _is_reserved(name: str) -> bool:
    return name in _RESERVED or name.startswith(_RESERVED_PREFIX) or name.endswith(_RESERVED_SUFFIX)
