"""``run.py``: how to use the model with its engine alone, in a script that anybody can read."""

from __future__ import annotations

import json

from strop.bundle.sample import fixed_batch
from strop.records import Recipe, Signature

_HEAD = '''"""Runs the model on the sample inputs. It needs {package} and numpy, and no strop."""
from pathlib import Path
import numpy as np
{imports}
here = Path(__file__).resolve().parent
sample = np.load(here / "evidence" / "sample.npz")
inputs = {{name[7:]: sample[name] for name in sample.files if name.startswith("inputs/")}}
'''
_FIXED = (
    "inputs = {{name: np.resize(array, ({batch}, *array.shape[1:])) "
    "for name, array in inputs.items()}}\n"
)
_TAIL = """for name, array in outputs.items():
    print(name, array.dtype, list(array.shape))
"""

_ONNX = """{settings}model = here / "{artifact}"
session = ort.InferenceSession(model, {given}providers={providers})
names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(names, inputs)))
"""
_OPENVINO = """model = ov.Core().compile_model(here / "{artifact}", "{device}", {properties})
results = model(inputs)
outputs = {{name: results[name] for name in {names}}}
"""
_EXPORTED = """{settings}# Loading an exported program may run code that it holds.
program = torch.export.load(here / "{artifact}").module()
with torch.inference_mode():
    result = program(**{{name: torch.from_numpy(array) for name, array in inputs.items()}})
values = result.values() if isinstance(result, dict) else result
values = [values] if isinstance(values, torch.Tensor) else list(values)
outputs = dict(zip({names}, (value.numpy() for value in values)))
"""

_INDUCTOR = """{settings}# Loading a library runs its code, made for the CPU that compiled it.
library = torch._C._aoti.AOTIModelContainerRunner{kind}(str(here / "{artifact}"), 1)
values = library.run([torch.from_numpy(inputs[name]).to("{torch}") for name in {takes}])
outputs = dict(zip({names}, (value.cpu().numpy() for value in values)))
"""
_TFLITE = """model = Interpreter(model_path=str(here / "{artifact}"), num_threads={threads})
places = list(zip({takes}, model.get_input_details()))
for name, entry in places:
    model.resize_tensor_input(entry["index"], inputs[name].shape)
model.allocate_tensors()
for name, entry in places:
    model.set_tensor(entry["index"], inputs[name])
model.invoke()
ends = zip({names}, model.get_output_details())
outputs = {{name: model.get_tensor(entry["index"]) for name, entry in ends}}
"""
_EXECUTORCH = """program = Runtime.get().load_program(here / "{artifact}").load_method("forward")
values = program.execute([torch.from_numpy(inputs[name]) for name in {takes}])
outputs = dict(zip({names}, (value.numpy() for value in values)))
"""

PACKAGES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "exported": "torch",
    "inductor": "torch",
    "tflite": "ai-edge-litert",
    "executorch": "executorch",
}
"""The distribution that runs a form."""
_IMPORTS = {
    "onnx": "import onnxruntime as ort",
    # OpenVINO sends usage reports through this package where it is installed.
    "openvino": (
        'import sys; sys.modules["openvino_telemetry"] = None  # sends no usage reports\n'
        "import openvino as ov"
    ),
    "exported": "import torch",
    "inductor": "import torch",
    "tflite": "from ai_edge_litert.interpreter import Interpreter",
    "executorch": "import torch\nfrom executorch.runtime import Runtime",
}
_BODIES = {
    "onnx": _ONNX,
    "openvino": _OPENVINO,
    "exported": _EXPORTED,
    "inductor": _INDUCTOR,
    "tflite": _TFLITE,
    "executorch": _EXECUTORCH,
}


def script(form: str, artifact: str, signature: Signature, recipe: Recipe) -> str:
    """The source of ``run.py`` for an artefact (a path inside the bundle)."""
    options = recipe.deploy.options
    # Left to itself OpenVINO computes in BF16 wherever the CPU can: not what was measured.
    properties = {"INFERENCE_PRECISION_HINT": options.get("precision", "f32")}
    if not options.get("dynamic_quantization", False):
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "0"
    if recipe.deploy.streams > 1:
        properties["NUM_STREAMS"] = str(recipe.deploy.streams)
    if recipe.deploy.threads:
        together = recipe.deploy.threads * recipe.deploy.streams
        properties["INFERENCE_NUM_THREADS"] = str(together)
    device = recipe.deploy.device
    if device.startswith("npu"):
        properties = {}  # it computes in FP16 whatever one asks for
    providers = ["CPUExecutionProvider"]
    if provider := options.get("provider"):
        providers = [f"{provider}ExecutionProvider", *providers]
    batch = fixed_batch(signature)
    settings = _settings(form, recipe)
    head = _HEAD.format(package=PACKAGES[form], imports=_IMPORTS[form])
    body = _BODIES[form].format(
        artifact=artifact,
        settings=settings,
        given="options, " if settings else "",
        properties=json.dumps(properties),
        names=repr(list(signature.output_names)),
        takes=repr(list(signature.input_names)),
        threads=recipe.deploy.threads or 1,
        providers=json.dumps(providers),
        device=device.upper().replace(":", "."),
        torch=device,
        kind="Cpu" if device == "cpu" else "Cuda",
    )
    return head + ("" if batch is None else _FIXED.format(batch=batch)) + body + _TAIL


def _settings(form: str, recipe: Recipe) -> str:
    """The lines that give a session the threads that it was measured with, where it has its own."""
    deploy = recipe.deploy
    spins = deploy.options.get("spinning", True)
    if form == "onnx" and (deploy.threads or not spins):
        lines = ["options = ort.SessionOptions()"]
        if deploy.threads:
            # Each caller works too, beside the helpers that all of them share.
            helpers = 1 + (deploy.threads - 1) * deploy.streams
            lines.append(f"options.intra_op_num_threads = {helpers}")
        if not spins:
            entry = 'options.add_session_config_entry("session.intra_op.allow_spinning", "0")'
            lines.append(entry)
        return "\n".join(lines) + "\n"
    if form in ("exported", "inductor") and deploy.threads:
        return f"torch.set_num_threads({deploy.threads})\n"
    return ""
