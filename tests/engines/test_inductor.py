import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop import bundle, engines
from strop.engines import Session
from strop.engines.inductor import Inductor
from strop.engines.inductor_library import FACTS, LIBRARY, Library, features
from strop.errors import InputError, NotApplicable, StropError, TrustError
from strop.measure import describe
from strop.models.model import Model
from strop.records import (
    Deployment,
    Evidence,
    Placement,
    Recipe,
    SessionSpec,
    Signature,
    TensorSpec,
)
from strop.search.space import joint_space
from strop.testing import graphs
from strop.testing.engines import EngineConformance
from strop.testing.targets import target

MODULES = Path(__file__).with_name("modules.py")

RUN = "import runpy, sys; sys.modules['strop'] = None; runpy.run_path(sys.argv[1] + '/run.py')"

compiles = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a library for `graphs.linear`: a build takes some ten seconds."""
    folder = tmp_path_factory.mktemp("inductor")
    model = graphs.linear().write(folder / "model")
    (folder / "artifact").mkdir()
    engines.get("inductor").build(model, {"freezing": True}, folder / "artifact")
    return folder / "artifact"


def opened(
    folder: Path, placement: Placement | None = None, signature: Signature | None = None
) -> Session:
    return engines.open_session(
        SessionSpec(
            engine="inductor",
            artifact=str(folder / LIBRARY),
            signature=signature or graphs.linear().signature,
            placement=placement or Placement(),
        )
    )


def changed(folder: Path, tmp_path: Path, **facts: Any) -> Path:
    """A copy of a built folder with other facts beside the library."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    values = json.loads((copy / FACTS).read_text())
    (copy / FACTS).write_text(json.dumps({**values, **facts}))
    return copy


@compiles
class TestOneLibrary:
    """What needs a library, on one."""

    def test_rows_are_free_down_to_none(self, built: Path) -> None:
        case, session = graphs.linear(), opened(built)
        for rows in (1, 7, 2, 0):
            arrays = case.inputs(rows, rows)
            found = session.run(arrays)["logits:0"]
            np.testing.assert_allclose(found, case.answer(arrays)["logits:0"], atol=1e-6)

    def test_it_holds_no_pickle_and_no_path_of_this_machine(self, built: Path) -> None:
        import torch

        assert sorted(file.name for file in built.iterdir()) == [FACTS, LIBRARY]
        code = (built / LIBRARY).read_bytes()
        assert code.startswith(b"\x7fELF") or b"__TEXT" in code[:4096]
        for path in (built, Path(torch.__file__).parent, Path.home(), Path(__file__)):
            assert str(path).encode() not in code
            assert str(path) not in (built / FACTS).read_text()

    def test_calls_from_several_threads_run_at_once(self, built: Path) -> None:
        case = graphs.linear()
        session = opened(built, Placement(streams=2))
        assert session.thread_safe and session.concurrency == 2
        batches = [case.inputs(1 + seed % 5, seed) for seed in range(64)]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(session.run, batches))
        for arrays, outputs in zip(batches, found, strict=True):
            expected = case.answer(arrays)["logits:0"]
            np.testing.assert_allclose(outputs["logits:0"], expected, atol=1e-6)

    def test_every_calling_thread_has_the_threads_of_the_placement(self, built: Path) -> None:
        import torch

        before = torch.get_num_threads()
        session = opened(built, Placement(threads=1))
        found: list[int] = []

        def call() -> None:
            session.run(graphs.linear().inputs(1, 0))
            found.append(torch.get_num_threads())

        try:
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
        finally:
            torch.set_num_threads(before)
        assert found == [1]

    def test_a_bundle_of_it_opens_when_trusted_and_runs_without_strop(
        self, built: Path, tmp_path: Path
    ) -> None:
        case, folder = graphs.linear(), tmp_path / "bundle"
        arrays = case.inputs(3, 4)
        deploy = Deployment(engine="inductor", options={"freezing": True}, threads=1)
        bundle.write(
            folder,
            bundle.Contents(
                name="tiny",
                artifact=built / LIBRARY,
                form="inductor",
                signature=case.signature,
                recipe=Recipe(deploy=deploy),
                claim=None,
                evidence=Evidence(),
                latency_curve=(),
                machine=describe(),
                original_digest="0" * 64,
                lineage={},
                result={},
                scores={},
                timings={},
                trials=(),
                sample_inputs=arrays,
                sample_outputs=case.answer(arrays),
            ),
        )
        with pytest.raises(TrustError, match="compiled library"):
            bundle.load(folder)
        with bundle.load(folder, trust=True) as loaded:
            found = loaded.run(arrays)["logits:0"]
        np.testing.assert_allclose(found, case.answer(arrays)["logits:0"], atol=1e-6)
        assert "trust=True" in (folder / "README.md").read_text()
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(folder)],
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["logits:0", "float32", "[3,", "3]"]

    def test_another_machine_is_refused(self, built: Path, tmp_path: Path) -> None:
        isa = [*features().isa, "avx1024"]
        with pytest.raises(NotApplicable, match=r"CPU with avx1024, which this one lacks.*again"):
            opened(changed(built, tmp_path, isa=isa))

    @pytest.mark.parametrize(
        ("facts", "text"),
        [
            ({"machine": "riscv64"}, "riscv64"),
            ({"torch": "1.0"}, r"PyTorch 1\.0"),
            ({"device": "cuda"}, "device 'cuda'"),
        ],
    )
    def test_other_circumstances_are_refused(
        self, built: Path, tmp_path: Path, facts: dict[str, str], text: str
    ) -> None:
        with pytest.raises(NotApplicable, match=text):
            opened(changed(built, tmp_path, **facts))

    def test_damaged_facts_and_libraries_are_named(self, built: Path, tmp_path: Path) -> None:
        copy = changed(built, tmp_path)
        (copy / LIBRARY).write_bytes(b"no library")
        with pytest.raises(NotApplicable, match="cannot be loaded"):
            opened(copy)
        (copy / FACTS).write_text('{"schema": 1}')
        with pytest.raises(InputError, match=r"model\.json"):
            opened(copy)

    def test_a_library_of_something_else_is_refused(self, tmp_path: Path, built: Path) -> None:
        source = tmp_path / "other.c"
        source.write_text("int other(void) { return 1; }\n")
        copy = changed(built, tmp_path)
        command = ["g++", "-shared", "-fPIC", str(source), "-o", str(copy / LIBRARY)]
        subprocess.run(command, check=True, timeout=240)
        with pytest.raises(NotApplicable, match="AOTInductorGetLastError"):
            opened(copy)


def test_a_missing_compiler_is_said_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = graphs.linear().write(tmp_path / "model")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    answer = engines.get("inductor").applies(model, target())
    assert not answer and "C++ compiler" in answer.reason and "CXX" in answer.reason
    with pytest.raises(NotApplicable, match=r"C\+\+ compiler"):
        engines.get("inductor").build(model, {}, tmp_path)


def test_short_searches_leave_it_out_unless_it_is_named(tmp_path: Path) -> None:
    model = graphs.linear().write(tmp_path / "model")
    short = joint_space(model, target(), only_techniques=[], seconds=20.0)
    assert "budget of 20 s" in dict(short.rejected)["inductor"]
    named = joint_space(
        model, target(), only_engines=["inductor"], only_techniques=[], seconds=20.0
    )
    if shutil.which("g++"):
        assert {recipe.deploy.engine for recipe in named.recipes} == {"inductor"}


def test_what_is_quantised_is_not_proposed_for_it(tmp_path: Path) -> None:
    model = graphs.linear().write(tmp_path / "model")
    space = joint_space(
        model,
        target(),
        only_engines=["inductor", "onnxruntime"],
        only_techniques=["int8-dynamic", "cleanup"],
    )
    ways = {(it.deploy.engine, *(step.technique for step in it.steps)) for it in space.recipes}
    assert ("onnxruntime", "int8-dynamic") in ways
    if shutil.which("g++"):
        assert ("inductor", "cleanup") in ways
    assert not any("int8-dynamic" in way for way in ways if way[0] == "inductor")


def test_loops_are_laid_out_for_the_batch_that_is_timed(tmp_path: Path) -> None:
    model = graphs.linear().write(tmp_path / "model")
    engine = engines.get("inductor")
    assert "rows" not in engine.space(model, target()).default
    assert engine.space(model, target(batch=32)).default["rows"] == 32
    with pytest.raises(InputError, match="rows is 0"):
        engine.build(model, {"rows": 0}, tmp_path)


def test_what_the_export_asks_beyond_the_signature_is_checked(tmp_path: Path) -> None:
    known = Library(
        device="cpu",
        torch="2.13",
        platform="linux",
        machine="x86_64",
        isa=("avx2",),
        equal=(("x", 0, "y", 0),),
        limits=(("x", 1, 0, 4), ("y", 1, 3, None)),
    )
    known.write(tmp_path)
    library = Library.read(tmp_path / LIBRARY)
    assert library == known

    def shaped(x: tuple[int, int], y: tuple[int, int]) -> dict[str, np.ndarray]:
        return {"x": np.zeros(x, np.float32), "y": np.zeros(y, np.float32)}

    library.check_shapes(shaped((2, 4), (2, 3)))
    with pytest.raises(InputError, match=r"dimension 1 of input 'x' is 5.*0 to 4"):
        library.check_shapes(shaped((2, 5), (2, 3)))
    with pytest.raises(InputError, match=r"dimension 1 of input 'y' is 2.*3 to more"):
        library.check_shapes(shaped((2, 4), (2, 2)))
    with pytest.raises(InputError, match="dimension 0 of input 'y' is 3, but dimension 0 of 'x'"):
        library.check_shapes(shaped((2, 4), (3, 3)))


def test_a_graph_without_a_translation_is_refused_with_the_operator(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"], name="odd")],
        "det",
        [info("x", TensorProto.FLOAT, ["n", 3, 3])],
        [info("y", TensorProto.FLOAT, ["n"])],
    )
    (tmp_path / "onnx").mkdir()
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    save(proto, tmp_path / "onnx" / "model.onnx")
    x = TensorSpec(name="x", dtype="float32", shape=("n", 3, 3))
    y = TensorSpec(name="y", dtype="float32", shape=("n",))
    model = Model.seal(tmp_path, Signature(inputs=(x,), outputs=(y,)))
    answer = engines.get("inductor").applies(model, target())
    assert not answer and "Det" in answer.reason
    with pytest.raises(NotApplicable, match="Det"):
        engines.get("inductor").build(model, {}, tmp_path)


def fixing() -> tuple[Any, Any, Signature]:
    """A module whose code fixes the size that its signature leaves free."""
    import torch

    from strop.models.module_form import ModuleForm

    class Fixing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(2, -1) if x.shape[0] == 2 else x.reshape(1, -1)

    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=("n", 4)),),
        outputs=(TensorSpec(name="output", dtype="float32", shape=("n", 4)),),
    )
    form = ModuleForm(None, False, ("x",), ("output",), ("output",), "")
    return Fixing(), form, signature


def test_an_export_that_fixes_a_free_dimension_is_refused(tmp_path: Path) -> None:
    from strop.engines.inductor_compile import compile_module

    module, form, signature = fixing()
    with pytest.raises(NotApplicable, match="fixes dimension 0 of 'x' at 2"):
        compile_module(
            module, form, signature, tmp_path, compiler="g++", device="cpu", freezing=True
        )
    assert not list(tmp_path.iterdir())


def one_input(module: str) -> tuple[Any, Any, Signature]:
    """A module of ``modules.py`` that takes ``x`` and gives ``output``."""
    from strop.models.module_form import ModuleForm, build

    spec = TensorSpec(name="x", dtype="float32", shape=("n", 4))
    output = spec.model_copy(update={"name": "output"})
    form = ModuleForm(None, False, ("x",), ("output",), ("output",), "")
    return build(f"{MODULES}:{module}"), form, Signature(inputs=(spec,), outputs=(output,))


def test_a_module_that_writes_into_its_input_gets_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from strop.engines import inductor_compile

    programs: list[Any] = []
    monkeypatch.setattr(inductor_compile, "_compile", lambda made, *_, **__: programs.append(made))
    monkeypatch.setattr(inductor_compile, "_check", lambda *_: None)
    module, form, signature = one_input("InPlace")
    inductor_compile.compile_module(
        module, form, signature, tmp_path, compiler="g++", device="cpu", freezing=True
    )
    x = torch.tensor([[-1.0, 2, -3, 4]])
    assert torch.equal(programs[0].module()(x)[0], torch.tensor([[0.0, 2, 0, 4]]))
    assert torch.equal(x, torch.tensor([[-1.0, 2, -3, 4]]))


def test_a_module_that_keeps_what_it_has_seen_is_refused(tmp_path: Path) -> None:
    from strop.engines.inductor_compile import compile_module

    module, form, signature = one_input("Running")
    with pytest.raises(NotApplicable, match=r"change what it keeps \(seen\)"):
        compile_module(
            module, form, signature, tmp_path, compiler="g++", device="cpu", freezing=True
        )


def test_a_compiler_with_arguments_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "ccache g++")
    answer = engines.get("inductor").applies(graphs.linear().write(tmp_path), target())
    assert not answer and "a program without arguments" in answer.reason


def test_what_the_compiler_says_is_the_reason(tmp_path: Path) -> None:
    from strop.engines.inductor_compile import compile_module
    from strop.models.module_form import ModuleForm, build

    compiler = tmp_path / "g++"
    compiler.write_text(
        '#!/bin/sh\ncase "$*" in *--version*|*-dump*) exec g++ "$@";; esac\n'
        "echo 'model.cpp:1:2: error: no room left for code' >&2; exit 1\n"
    )
    compiler.chmod(0o700)
    case, folder = graphs.half(), tmp_path / "none"
    folder.mkdir()
    form = ModuleForm(None, False, ("x",), ("y",), ("output",), "")
    with pytest.raises(NotApplicable, match=r"the C.. compiler says: no room left for code"):
        compile_module(
            build(f"{MODULES}:Half"),
            form,
            case.signature,
            folder,
            compiler=str(compiler),
            device="cpu",
            freezing=True,
        )
    assert not list(folder.iterdir())


@compiles
@pytest.mark.slow
@pytest.mark.timeout(3600)  # one test builds eight libraries
class TestConformance(EngineConformance):
    engine = "inductor"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _builds_once(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        """Equal builds with named options are made once; those without any are never shared."""
        real = Inductor.build
        kept: dict[str, Path] = {}

        def build(
            engine: Inductor, model: Model, options: Mapping[str, Any], workdir: Path
        ) -> Path:
            if not options or options.keys() - {"freezing"}:
                return real(engine, model, options, workdir)
            key = f"{model.digest} {sorted(options.items())}"
            if key not in kept:
                folder = tmp_path_factory.mktemp("built")
                real(engine, model, options, folder)
                kept[key] = folder
            shutil.copytree(kept[key], workdir, dirs_exist_ok=True)
            return workdir / LIBRARY

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Inductor, "build", build)
            yield


@compiles
@pytest.mark.slow
def test_a_users_module_is_compiled_as_it_is(tmp_path: Path) -> None:
    from strop.models.model import ModuleSource
    from strop.models.module_form import ModuleForm

    case = graphs.several()
    form = ModuleForm(
        spec=f"{MODULES}:Several",
        live=False,
        inputs=case.signature.input_names,
        outputs=case.signature.output_names,
        keys=("output", "output_1", "output_2"),
        digest="0" * 64,
    )
    form.write(tmp_path / "module" / "module.json")
    model = Model.seal(tmp_path, case.signature, source=ModuleSource(form.spec))
    (tmp_path / "artifact").mkdir()
    engines.get("inductor").build(model, {}, tmp_path / "artifact")
    session = opened(tmp_path / "artifact", signature=case.signature)
    for rows in (1, 6):
        arrays = case.inputs(rows, rows)
        for name, expected in case.answer(arrays).items():
            np.testing.assert_allclose(session.run(arrays)[name], expected, atol=1e-6)
    session.close()
    with pytest.raises(StropError, match="closed"):
        session.run(case.inputs(1, 0))
