"""From an `nn.Module` to a shared library, by torch.export and AOTInductor; imports torch."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from strop.engines._tracing import examples, sizes
from strop.engines.inductor_library import LIBRARY, Library, features, release
from strop.engines.inductor_runner import Runner
from strop.errors import ModelError, NotApplicable
from strop.models.module_export import as_tensors
from strop.models.module_form import ModuleForm, describe_error
from strop.models.parity import relative_errors
from strop.records import Signature

_WRONG = 0.02
"""Relative error of outputs that no other order of summation explains."""
ROWS = 2
"""Rows to trace with: with one alone the dimension would count as fixed."""
_THREADS = "num_threads(n)=num_threads(omp_get_max_threads()<(n)?omp_get_max_threads():(n))"
"""A macro for OpenMP's clause: no more threads than the session has at the time of the call."""


def compile_module(
    module: nn.Module,
    form: ModuleForm,
    signature: Signature,
    folder: Path,
    *,
    compiler: str,
    device: str,
    freezing: bool,
    rows: int = ROWS,
    kernels: bool = False,
) -> Path:
    """Write ``model.so`` and what must be known of it to `folder`; the library's path.

    Everything that the signature leaves free stays free; loops are laid out for `rows` rows. With
    `kernels`, each kernel tells a profiler its name, which costs it a little in every call.

    Raises
    ------
    NotApplicable
        When the module cannot be exported with its free dimensions, or cannot be compiled.
    """
    flat = _Flat(module, form, signature).eval()
    # In the folder itself: whoever ends a build that takes too long throws that away.
    aside = tempfile.TemporaryDirectory(prefix="scratch-", dir=folder)
    with aside as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations inside torch
        try:
            with torch.no_grad():
                program, tensors = _export(flat.to(device), signature, device, rows)
                library = _describe(program, signature, device)
                changes = {"freezing": freezing, "cpp.enable_kernel_profile": kernels}
                _compile(program, Path(scratch), folder, compiler, device, changes)
                _check(flat, tensors, folder / LIBRARY, device)
        except (NotApplicable, ModelError):
            raise
        except Exception as error:  # export, lowering and the compiler raise anything
            raise NotApplicable(f"AOTInductor cannot compile it: {_gist(error)}") from error
    library.write(folder)
    return folder / LIBRARY


class _Flat(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Tensors in the signature's order, in and out: a library knows no names.

    Attributes
    ----------
    copies
        Whether the module gets copies of its inputs: one that writes into them would write into
        the caller's arrays.
    """

    def __init__(self, module: nn.Module, form: ModuleForm, signature: Signature) -> None:
        super().__init__()
        self.module = module
        self.copies = False
        self._form = form
        self._inputs = signature.input_names
        self._outputs = signature.output_names

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.copies:
            tensors = tuple(tensor.clone() for tensor in tensors)
        named = dict(zip(self._inputs, tensors, strict=True))
        outputs = self._form.run(self.module, named)
        return tuple(outputs[name] for name in self._outputs)


def _export(
    flat: _Flat, signature: Signature, device: str, rows: int
) -> tuple[Any, list[torch.Tensor]]:
    """The module as an exported program, and the inputs at whose sizes it was traced."""
    # Whatever holds for one row and for none must hold in the program as well: without this a
    # dimension counts as two or more.
    import torch.fx.experimental._config as settings

    failure: Exception | None = None
    for size in sizes(signature):
        arrays = examples(signature, rows, size)
        named = as_tensors(arrays, signature.input_names)
        tensors = [tensor.to(device) for tensor in named.values()]
        free = tuple(
            {
                axis: torch.export.Dim.AUTO
                for axis, dim in enumerate(spec.shape or ())
                if not isinstance(dim, int)
            }
            for spec in signature.inputs
        )
        try:
            _look_at_a_call(flat, tensors)
            with settings.patch(backed_size_oblivious=True):
                program = torch.export.export(
                    flat,
                    tuple(tensors),
                    # One entry for the one parameter of forward, *tensors.
                    dynamic_shapes=(free,),
                )
                return program, tensors
        except NotApplicable:
            raise
        except Exception as error:  # whatever forward raises at a size that is none of its own
            failure = failure or error
    assert failure is not None
    raise NotApplicable(f"torch.export cannot export it: {describe_error(failure)}")


def _look_at_a_call(flat: _Flat, tensors: list[torch.Tensor]) -> None:
    """See what a call leaves behind, and have the module get copies where it writes into inputs.

    Raises
    ------
    NotApplicable
        When it changes what later calls see.
    """
    buffers = dict(flat.module.named_buffers())
    before = {name: buffer._version for name, buffer in buffers.items()}
    given = [tensor._version for tensor in tensors]
    flat(*tensors)
    if [tensor._version for tensor in tensors] != given:
        flat.copies = True
    if kept := [name for name, buffer in buffers.items() if buffer._version != before[name]]:
        shown = ", ".join(kept[:3])
        raise NotApplicable(
            f"its calls change what it keeps ({shown}), and several may run at once"
        )


def _describe(program: Any, signature: Signature, device: str) -> Library:
    """What the program asks of its inputs beyond the signature.

    Raises
    ------
    NotApplicable
        When the export has fixed what the signature leaves free, or ties it to something else.
    """
    names = set(program.graph_signature.user_inputs)
    shapes = [
        node.meta["val"].shape
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in names
    ]
    places: dict[str, list[tuple[str, int, str | None]]] = {}
    for spec, shape in zip(signature.inputs, shapes, strict=True):
        for axis, (declared, size) in enumerate(zip(spec.shape or (), shape, strict=True)):
            if isinstance(declared, int):
                continue
            where = f"dimension {axis} of '{spec.name}'"
            symbol = str(size)
            if symbol.isdigit():
                raise NotApplicable(f"torch.export fixes {where} at {symbol}")
            if not symbol.isidentifier():
                raise NotApplicable(f"torch.export needs {where} to be {symbol}")
            places.setdefault(symbol, []).append((spec.name, axis, declared))
    equal = []
    for found in places.values():
        first = found[0]
        equal += [
            (*first[:2], *other[:2])
            for other in found[1:]
            if other[2] is None or other[2] != first[2]
        ]
    limits = []
    for symbol, bounds in program.range_constraints.items():
        low = int(bounds.lower)
        high = int(bounds.upper) if str(bounds.upper).isdigit() else None
        # Up to two is torch.export's convention, not a bound: what holds for two holds for less.
        if str(symbol) in places and (low > 2 or high is not None):
            name, axis, _ = places[str(symbol)][0]
            limits.append((name, axis, low if low > 2 else 0, high))
    return Library(
        device=device,
        torch=release(torch.__version__),
        platform=sys.platform,
        machine=features().machine,
        isa=features().isa,
        equal=tuple(equal),
        limits=tuple(limits),
    )


def _compile(
    program: Any,
    scratch: Path,
    folder: Path,
    compiler: str,
    device: str,
    changes: Mapping[str, Any],
) -> None:
    """Compile in `scratch`, and take the library alone from the package that torch makes.

    The package holds sources and a search path of this machine as well, and its loader unpickles
    whatever weights it finds beside a library.
    """
    package = scratch / "model.pt2"
    settings: dict[str, Any] = {
        **changes,
        # For these many it decides which loops are worth sharing out; see _THREADS. Left to
        # itself ("dynamic threads") it shares out every loop, however short.
        "cpp.threads": _granted(),
        "cpp.cxx": (None, str(_wrapped(compiler, scratch))),
        # Otherwise each instruction set is tried with a compiled program of its own first.
        "cpp.vec_isa_ok": True,
        # Headers are compiled ahead for the next build, which here begins with nothing.
        "aot_inductor.precompile_headers": False,
        "cpp_cache_precompile_headers": False,
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.model_name_for_generated_files": "model",
    }
    if device != "cpu":
        settings["aot_inductor.embed_kernel_binary"] = True
    with _caches_in(scratch):
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(package), inductor_configs=settings
        )
    with zipfile.ZipFile(package) as archive:
        if any(entry.endswith("wrapper.json") for entry in archive.namelist()):
            raise NotApplicable("it has operators that only PyTorch's interpreter can call")
        libraries = [entry for entry in archive.namelist() if entry.endswith("wrapper.so")]
        if len(libraries) != 1:
            raise NotApplicable(f"AOTInductor has made {len(libraries)} libraries, not one")
        # A library of an earlier build may be loaded: it keeps its file, this one gets its own.
        (folder / LIBRARY).unlink(missing_ok=True)
        with archive.open(libraries[0]) as source, (folder / LIBRARY).open("wb") as target:
            shutil.copyfileobj(source, target)


def _check(flat: _Flat, tensors: list[torch.Tensor], library: Path, device: str) -> None:
    """Hold the library's answers against the module's own.

    Raises
    ------
    NotApplicable
        When it computes something else: code is generated for each network anew, and now and then
        it is wrong.
    """
    runner = Runner(library, device, 1)
    try:
        found = runner.run([tensor.clone() for tensor in tensors])
    finally:
        runner.close()
    for mine, theirs in zip(flat(*tensors), found, strict=True):
        if not mine.is_floating_point() or not mine.numel():
            continue
        rows = relative_errors(mine.float().cpu().numpy(), theirs.float().cpu().numpy())
        error = float(np.median(rows))
        if not error <= _WRONG:
            raise NotApplicable(
                f"AOTInductor has compiled something else: outputs differ from the module's own by "
                f"{error:.2g} of their size"
            )


def _wrapped(compiler: str, scratch: Path) -> Path:
    """The compiler, told to leave the paths of this machine and symbols for debuggers away.

    Equal sources then give equal libraries wherever they are compiled.
    """
    include = Path(torch.__file__).parent / "include"
    script = scratch / Path(compiler).name
    words = [compiler, "-s", f"-D{_THREADS}"]
    words += [
        f"-ffile-prefix-map={path}={name}" for path, name in ((scratch, "."), (include, "torch"))
    ]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o700)
    return script


def _granted() -> int:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _caches_in(folder: Path) -> Iterator[None]:
    """Inductor's caches below `folder`: some are pickles, and none shall outlive the build."""
    before: Mapping[str, str | None] = {
        name: os.environ.get(name) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    }
    os.environ.update({name: str(folder / "cache") for name in before})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _gist(error: Exception) -> str:
    """The compiler's first error, or the first line of what torch says."""
    for line in str(error).splitlines():
        _, mark, text = line.partition("error: ")
        if mark and text.strip():
            return f"the C++ compiler says: {text.strip()}"
    return describe_error(error)
