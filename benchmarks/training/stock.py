"""The stock pipelines: NNCF's QAT, torch-pruning with fine-tuning, Intel Neural Compressor.

Each starts from the demo's network, has as long to train as strop's steps together, and trains on
the same examples.
"""

from __future__ import annotations

import copy
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import trouble
from torch import Tensor, nn
from torch.nn import functional

from strop.demo import resnet

RATIOS = (0.75, 0.5, 0.3)
BATCH = 128
_HELD, _CALIBRATION = 2000, 256
_TOOL = Path(__file__).parents[1] / "zoo" / "tools" / "inc_int8.py"
_TIMEOUT = 1800

Stock = Callable[..., tuple[Path, str]]


class Skipped(Exception):
    """A pipeline that cannot be run here; the message is the reason."""


def nncf_qat(images: Tensor, labels: Tensor, folder: Path, seconds: float) -> tuple[Path, str]:
    """NNCF's quantisation-aware training as its guide has it: quantise, fine-tune, export.

    Its `strip` imports torchao, which strop does not install.
    """
    from strop.engines import quiet_telemetry

    quiet_telemetry()
    import nncf

    model = resnet.build()
    calibration = nncf.Dataset([images[i : i + 1] for i in range(_CALIBRATION)])
    quantised = nncf.quantize(model, calibration, preset=nncf.QuantizationPreset.MIXED)
    _fine_tune(quantised, images, labels, seconds, rate=1e-4)
    path = folder / "nncf-qat.onnx"
    quantised = nncf.strip(quantised.cpu().eval(), example_input=images[:2])
    export(quantised, images[:2], path, dynamo=False)
    return path, f"NNCF {nncf.__version__} QAT, OpenVINO"


def torch_pruning(
    images: Tensor, labels: Tensor, folder: Path, seconds: float, *, within: float
) -> tuple[Path, str]:
    """torch-pruning with fine-tuning: the greatest ratio that keeps the validation accuracy."""
    import torch_pruning as tp

    base = resnet.build()
    before = trouble.accuracy(base, images[-_HELD:], labels[-_HELD:])
    chosen: tuple[nn.Module, float] | None = None
    for ratio in RATIOS:  # the greatest first, with an equal share of the time
        model = copy.deepcopy(base).train()
        last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
        tp.pruner.BasePruner(
            model,
            images[:2],
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[last],
            round_to=8,
        ).step()
        _fine_tune(model, images[:-_HELD], labels[:-_HELD], seconds / len(RATIOS), rate=1e-3)
        model.eval()
        if trouble.accuracy(model, images[-_HELD:], labels[-_HELD:]) >= before - within:
            chosen = model, ratio
            break
    if chosen is None:
        chosen = base, 0.0
    path = folder / "torch-pruning.onnx"
    export(chosen[0], images[:2], path)
    return path, f"torch-pruning {tp.__version__}, {chosen[1]:.0%} of the channels, ONNX Runtime"


def inc(images: Tensor, model: Path, folder: Path, venvs: Path) -> tuple[Path, str]:
    """Intel Neural Compressor's static INT8 with its defaults, in the environment of its own.

    That environment is the one that benchmarks/zoo/run.py makes below its ``--venvs``.

    Raises
    ------
    Skipped
        Where there is no such environment, or the tool fails.
    """
    python = venvs / "inc_int8" / "bin" / "python"
    if not python.exists():
        raise Skipped(
            f"{python} is missing: benchmarks/zoo/run.py --steps stock makes it, for --venvs"
        )
    calibration = folder / "calibration.npz"
    np.savez(calibration, image=images[:_CALIBRATION].numpy())
    command = [str(python), *(str(p.resolve()) for p in (_TOOL, model, calibration, folder))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if done.returncode:
        raise Skipped((done.stderr.strip() or "no message").splitlines()[-1])
    row: dict[str, Any] = json.loads((folder / "built.json").read_text())[0]
    if "error" in row:
        raise Skipped(str(row["error"]))
    version = row["versions"]["onnx-neural-compressor"]
    path = folder / "inc.onnx"
    onnx.save(onnx.load(row["artifact"]), path)  # one file: the tool leaves the weights beside it
    return path, f"Intel Neural Compressor {version} static INT8, ONNX Runtime"


def export(model: nn.Module, example: Tensor, path: Path, *, dynamo: bool = True) -> None:
    """An ONNX file with a free batch dimension."""
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"]}
    if dynamo:
        names |= {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "external_data": False}
    else:
        names |= {"dynamic_axes": {"image": {0: "batch"}, "logits": {0: "batch"}}}
    torch.onnx.export(model, (example,), path, dynamo=dynamo, **names)


def _fine_tune(
    model: nn.Module, images: Tensor, labels: Tensor, seconds: float, *, rate: float
) -> None:
    """Adam and a cosine over the time, on the labels, as the stock guides have it."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    began = time.monotonic()
    model.train()
    for rows in _batches(len(images)):
        done = (time.monotonic() - began) / seconds
        if done >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * done))
        loss = functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def _batches(count: int) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(count).split(BATCH)
