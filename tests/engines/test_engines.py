import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from strop import engines
from strop.errors import InputError, StropError
from strop.records import SessionSpec
from strop.testing import graphs

RUNTIMES = ("onnx", "onnxruntime", "openvino", "torch", "scipy")


def test_the_three_built_in_ones_are_registered() -> None:
    assert {"onnxruntime", "openvino", "torch"} <= set(engines.names())


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'tensorrt'.*onnxruntime"):
        engines.get("tensorrt")


@pytest.mark.parametrize(
    ("made", "said"), [(dict, "is a dict"), (lambda: 1 / 0, "cannot be made: division by zero")]
)
def test_a_plug_in_that_is_no_engine_is_told_of(
    made: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strop.plugins.find", lambda group, name: made)
    with pytest.raises(StropError, match=f"the engine 'wrong' {said}"):
        engines.get("wrong")


def test_a_missing_artefact_is_named(tmp_path: Path) -> None:
    spec = SessionSpec(
        engine="onnxruntime",
        artifact=str(tmp_path / "gone.onnx"),
        signature=graphs.linear().signature,
    )
    with pytest.raises(InputError, match=r"gone\.onnx"):
        engines.open_session(spec)


def test_asking_an_engine_imports_no_runtime() -> None:
    code = (
        "import sys; from strop import engines\n"
        "for name in engines.names(): engines.get(name).available()\n"
        f"loaded = [name for name in {RUNTIMES} if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_opening_a_session_imports_that_runtime_alone(engine: str, tmp_path: Path) -> None:
    model = graphs.linear().write(tmp_path / "model")
    (tmp_path / "artifact").mkdir()
    artifact = engines.get(engine).build(model, {}, tmp_path / "artifact")
    spec = SessionSpec(engine=engine, artifact=str(artifact), signature=model.signature)
    (tmp_path / "spec.json").write_text(spec.to_json())
    code = (
        "import sys; from pathlib import Path\n"
        "from strop import engines; from strop.records import SessionSpec\n"
        "engines.open_session(SessionSpec.read(Path(sys.argv[1])))\n"
        f"others = [n for n in {RUNTIMES} if n in sys.modules and n != {engine!r}]\n"
        "assert not others, others"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "spec.json")],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
