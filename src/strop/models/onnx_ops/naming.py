"""Names that Python and torch allow, made of ONNX's."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence

from torch import fx

_WEIGHT = re.compile(r"(.+)\.(weight|bias|w_0|b_0|kernel|gamma|scale)$")
_TAKEN = frozenset({*dir(fx.GraphModule), "meta", "shape_env", "training"})
"""Attributes that a module or a graph module has already."""


def layer_path(name: str, weights: Sequence[str]) -> str:
    """The place of a layer in the tree of modules, as its weights or its node are named.

    Parameters
    ----------
    name
        The node's.
    weights
        The names of its inputs after the first.

    Examples
    --------
    >>> layer_path("node_conv2d", ["features.0.weight"])
    'features.0'
    >>> layer_path("/layer1/layer1.0/conv1/Conv", ["onnx::Conv_193"])
    'layer1.0.conv1'
    """
    for weight in weights:
        if found := _WEIGHT.match(weight):
            return legal_path(found[1])
    scopes: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        # TorchScript repeats a container's name in its children's: layer1/layer1.0.
        if scopes and part.startswith(scopes[-1] + "."):
            scopes.pop()
        scopes.append(part)
    return legal_path(".".join(scopes) or name)


def legal_path(name: str) -> str:
    """A path of attributes.

    Examples
    --------
    >>> legal_path("onnx::Add_12"), legal_path("encoder/layer.0/type"), legal_path("12")
    ('onnx__Add_12', 'encoder.layer.0.type_', '_.12')
    """
    parts = [re.sub(r"\W", "_", part) for part in re.split(r"[./]", name) if part] or ["layer"]
    legal = [f"{part}_" if part in _TAKEN else part for part in parts]
    # fx spells the first one as an attribute of self, where a number would be no Python.
    return ".".join(legal if legal[0].isidentifier() else ["_", *legal])


def legal_argument(name: str) -> str:
    """A name for an argument of a function.

    Examples
    --------
    >>> legal_argument("input.1"), legal_argument("lambda"), legal_argument("0")
    ('input_1', 'input_lambda', 'input_0')
    """
    legal = re.sub(r"\W", "_", name)
    return legal if legal.isidentifier() and not keyword.iskeyword(legal) else f"input_{legal}"
