"""Resize and padding."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx
from torch.nn import functional

from strop.models.onnx_ops.builder import Builder, Call, Constant, Value, operator
from strop.models.onnx_ops.layers import torch_order

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
_PAD_MODES = {
    b"constant": "constant",
    b"reflect": "reflect",
    b"edge": "replicate",
    b"wrap": "circular",
}


@operator("Resize")
def resize(builder: Builder, call: Call) -> Value:
    rank = builder.rank(call)
    mode, corners = _mode(call, rank)
    settings: dict[str, Any] = {"mode": mode}
    if not mode.startswith("nearest"):
        settings["align_corners"] = corners
    axes = [axis % rank for axis in call.attributes.get("axes", range(rank))]
    if call.input(3) is not None:
        sizes = builder.integers(call.inputs[3])
        if (
            sizes is None
            or call.attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch"
        ):
            raise call.fails("takes sizes in a way without a translation")
        wanted = dict(zip(axes, sizes, strict=True))
        for axis in {0, 1} & set(axes):
            known = (builder.shape(call.input_names[0]) or ())[axis]
            # The batch and the channels stay: their entry copies the input's size.
            if isinstance(wanted[axis], int) and isinstance(known, int) and wanted[axis] != known:
                raise call.fails("resizes the batch or the channels")
        x = builder.tensor(call.inputs[0])
        settings["size"] = [wanted.get(axis, builder.size(x, axis)) for axis in range(2, rank)]
        return builder.call(functional.interpolate, x, **settings)
    scales = call.input(2)
    if not isinstance(scales, Constant):
        raise call.fails("takes scales that are not constant")
    factors = dict(zip(axes, scales.array.tolist(), strict=True))
    if any(factors.get(axis, 1.0) != 1.0 for axis in (0, 1)):
        raise call.fails("resizes the batch or the channels")
    settings["scale_factor"] = [factors.get(axis, 1.0) for axis in range(2, rank)]
    return builder.call(functional.interpolate, builder.tensor(call.inputs[0]), **settings)


@operator("Pad")
def pad(builder: Builder, call: Call) -> Value:
    mode = call.attributes.get("mode", b"constant")
    rank = builder.rank(call)
    given = builder.known_integers(call, 1, "pads")
    axes = builder.known_integers(call, 3)
    if given is None or mode not in _PAD_MODES:
        raise call.fails(f"pads by '{mode.decode()}'")
    pads = np.zeros((2, rank), int)
    pads[:, [axis % rank for axis in axes] if axes is not None else slice(None)] = np.reshape(
        given, (2, -1)
    )
    ordered = torch_order(pads.ravel().tolist())
    while ordered and ordered[-2:] == [0, 0]:  # torch's other modes pad the last axes alone
        del ordered[-2:]
    x = builder.tensor(call.inputs[0])
    if mode != b"constant":
        return builder.call(functional.pad, x, ordered, mode=_PAD_MODES[mode])
    value: Any = 0
    if call.input(2) is not None:
        value = builder.operand(call, 2)
        if isinstance(value, fx.Node):
            raise call.fails("pads with a value that is not constant")
    return builder.call(functional.pad, x, ordered, value=value)


def _mode(call: Call, rank: int) -> tuple[str, bool]:
    """The mode of `interpolate`, and whether corners are aligned."""
    mode = call.attributes.get("mode", b"nearest")
    places = call.attributes.get("coordinate_transformation_mode", b"half_pixel")
    rounding = call.attributes.get("nearest_mode", b"round_prefer_floor")
    if call.attributes.get("antialias", 0) or call.attributes.get("exclude_outside", 0):
        raise call.fails("is antialiased, or leaves the outside out")
    if mode == b"nearest" and (places, rounding) == (b"asymmetric", b"floor"):
        return "nearest", False
    if mode == b"nearest" and (places, rounding) in (
        (b"half_pixel", b"round_prefer_floor"),
        (b"half_pixel", b"round_prefer_ceil"),
    ):
        return "nearest-exact", False
    smooth = places in (b"half_pixel", b"pytorch_half_pixel", b"align_corners")
    if mode == b"linear" and smooth and rank in _LINEAR:
        return _LINEAR[rank], places == b"align_corners"
    factor = float(call.attributes.get("cubic_coeff_a", -0.75))
    if mode == b"cubic" and smooth and rank == 4 and factor == -0.75:
        return "bicubic", places == b"align_corners"
    raise call.fails(f"is '{mode.decode()}' on '{places.decode()}' coordinates")
