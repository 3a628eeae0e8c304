"""Several networks for one task: the first is the original, recipes may start from any of them.

A small architecture that is well tuned may beat a large one that was compressed. What the others
answer is held against the original like any candidate's answers, and has to be proven like them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from strop.errors import InputError
from strop.models.model import Model
from strop.records import Signature, TensorSpec
from strop.search.intake import import_model
from strop.search.request import Request, text_of
from strop.search.workspace import Start
from strop.workers import Pool


def import_others(
    request: Request, original: Model, pool: Pool, folder: Path
) -> Mapping[str, Start]:
    """The networks after the first, by the names that recipes give them.

    Raises
    ------
    InputError
        When one cannot be read, could not be delivered, does not take and give what the original
        does, or is given twice.
    """
    given = request.models
    names = distinct_names(given)
    seen = {original.digest: names[0]}
    others: dict[str, Start] = {}
    for place, (name, one) in enumerate(zip(names[1:], given[1:], strict=True)):
        own = folder / f"other-{place}"
        own.mkdir()
        model, payload = import_model(replace(request, model=one), pool, own)
        if model.digest in seen:
            raise InputError(
                f"'{name}' is the same network as '{seen[model.digest]}'", hint="name it once"
            )
        if not set(model.forms) - {"module"}:
            reason = model.meta.get("export_error", "it is a module alone")
            raise InputError(
                f"'{name}' could not be delivered: {reason}",
                hint="a network besides the original has to export to ONNX; leave it out",
            )
        if difference := disagreement(original.signature, model.signature):
            raise InputError(
                f"'{name}' is no network for the task of '{names[0]}': {difference}",
                hint="networks of one search share names, dtypes and shapes",
            )
        seen[model.digest] = name
        others[name] = Start(model, payload)
    return others


def distinct_names(given: Sequence[Any]) -> list[str]:
    """What each is called: file names where they differ, numbered where they do not.

    >>> distinct_names(["a/net.onnx", "b/net.onnx", "tiny.onnx"])
    ['net.onnx', 'net.onnx#2', 'tiny.onnx']
    """
    names: list[str] = []
    for one in given:
        name, count = text_of(one), 1
        while name in names:
            count += 1
            name = f"{text_of(one)}#{count}"
        names.append(name)
    return names


def disagreement(original: Signature, other: Signature) -> str:
    """Why `other` cannot stand in for `original`, in words; empty where it can.

    It has to take all that the original takes: where a dimension of an input is free there, it has
    to be free here. What is known of the outputs must not differ.
    """
    if original.input_names != other.input_names:
        return f"it takes {_listed(other.input_names)}, not {_listed(original.input_names)}"
    if original.output_names != other.output_names:
        return f"it gives {_listed(other.output_names)}, not {_listed(original.output_names)}"
    for wanted, own in zip(original.inputs, other.inputs, strict=True):
        if not _fits(own, wanted, free=False):
            return f"it takes {own}, not {wanted}"
    for wanted, own in zip(original.outputs, other.outputs, strict=True):
        if not _fits(own, wanted, free=True):
            return f"it gives {own}, not {wanted}"
    return ""


def _fits(own: TensorSpec, wanted: TensorSpec, *, free: bool) -> bool:
    """Whether the tensors may be one; `free`: a size may be known of `own` alone."""
    if own.dtype != wanted.dtype:
        return False
    if own.shape is None or wanted.shape is None:
        return True
    return len(own.shape) == len(wanted.shape) and all(
        not isinstance(mine, int) or mine == theirs or (free and not isinstance(theirs, int))
        for mine, theirs in zip(own.shape, wanted.shape, strict=True)
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
