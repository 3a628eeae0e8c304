"""What every engine must do; subclass :class:`EngineConformance` to check yours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from strop import engines
from strop.engines import Engine, Session
from strop.errors import InputError, StropError
from strop.models.model import Model, digest_of_tree
from strop.records import Placement, SessionSpec
from strop.testing import graphs
from strop.testing.graphs import Case
from strop.testing.targets import target

Opener = Callable[..., Session]


class EngineConformance:
    """Checks of the contract in `strop.engines`: subclass, name the engine, run pytest.

    Override :meth:`write` when the engine takes another form than ONNX.

    Examples
    --------
    >>> class TestMyEngine(EngineConformance):
    ...     engine = "my-engine"
    """

    engine: ClassVar[str]
    """The engine's name, as its entry point spells it."""
    cases: ClassVar[tuple[Case, ...]] = (
        graphs.linear(),
        graphs.several(),
        graphs.passthrough(),
        graphs.half(),
    )
    tolerance: ClassVar[float] = 1e-6
    """How far exact options may stray from the answer, relative and absolute."""

    def write(self, case: Case, folder: Path) -> Model:
        """The case as a model in a form that the engine consumes."""
        return case.write(folder)

    @pytest.fixture
    def opened(self, tmp_path: Path) -> Iterator[Opener]:
        """Builds and loads a case; closes the sessions when the test ends."""
        with self.opener(tmp_path) as opened:
            yield opened

    @contextlib.contextmanager
    def opener(self, tmp_path: Path) -> Iterator[Opener]:
        """What the fixture `opened` gives, for use without pytest."""
        sessions: list[Session] = []

        def opened(
            case: Case, options: Any = None, *, threads: int = 1, streams: int = 1
        ) -> Session:
            folder = tmp_path / str(len(sessions))
            model = self.write(case, folder / "model")
            engine = self._engine()
            chosen = engine.space(model, target()).default if options is None else options
            workdir = folder / "artifact"
            workdir.mkdir()
            spec = SessionSpec(
                engine=self.engine,
                artifact=str(engine.build(model, chosen, workdir)),
                signature=model.signature,
                options=chosen,
                placement=Placement(threads=threads, streams=streams),
            )
            payload = model.source.payload if model.source else None
            sessions.append(engines.open_session(spec, payload=payload))
            return sessions[-1]

        try:
            yield opened
        finally:
            for session in sessions:
                session.close()

    def test_is_registered_and_describes_itself(self) -> None:
        engine = self._engine()
        assert engine.name == self.engine
        assert engine.consumes and engine.packages
        assert engine is self._engine(), "get() makes one instance an engine"

    def test_applies_to_every_case(self, tmp_path: Path) -> None:
        for case in self.cases:
            model = self.write(case, tmp_path / case.name)
            answer = self._engine().applies(model, target())
            assert answer, f"{case.name}: {answer.reason}"

    def test_refuses_another_device_with_a_reason(self, tmp_path: Path) -> None:
        model = self.write(self.cases[0], tmp_path / "model")
        answer = self._engine().applies(model, target(device="abacus"))
        assert not answer
        assert "abacus" in answer.reason

    def test_space_is_small_and_its_default_is_exact(self, tmp_path: Path) -> None:
        model = self.write(self.cases[0], tmp_path / "model")
        engine = self._engine()
        space = engine.space(model, target())
        assert 1 <= len(list(space.grid())) <= 8
        assert engine.is_exact(space.default), "nothing but the baseline is exact by default"

    def test_answers_are_right_for_every_option(self, opened: Opener, tmp_path: Path) -> None:
        engine = self._engine()
        for case in self.cases:
            model = self.write(case, tmp_path / case.name)
            arrays = case.inputs(3, 1)
            for options in engine.space(model, target()).grid():
                if engine.is_exact(options):
                    outputs = opened(case, options).run(arrays)
                    self._check(case, outputs, case.answer(arrays))

    def test_names_and_dtypes_are_the_signatures(self, opened: Opener) -> None:
        for case in self.cases:
            session = opened(case)
            assert session.signature == case.signature
            outputs = session.run(case.inputs(2, 0))
            assert tuple(outputs) == case.signature.output_names
            for spec in case.signature.outputs:
                assert outputs[spec.name].dtype.name == spec.dtype, spec.name

    def test_free_dimensions_are_free(self, opened: Opener) -> None:
        for case in self.cases:
            session = opened(case)
            for rows, seed in ((1, 0), (5, 1), (2, 2), (1, 3)):
                arrays = case.inputs(rows, seed)
                self._check(case, session.run(arrays), case.answer(arrays))

    def test_takes_read_only_and_strided_inputs_and_leaves_them_alone(self, opened: Opener) -> None:
        for case in self.cases:
            session = opened(case)
            wide = case.inputs(6, 3)
            arrays = {name: array[::-2] for name, array in wide.items()}
            for array in arrays.values():
                array.flags.writeable = False
            before = {name: array.copy() for name, array in wide.items()}
            self._check(case, session.run(arrays), case.answer(arrays))
            session.run(wide)  # these are the runtime's to read in place, and no more
            for name, array in wide.items():
                np.testing.assert_array_equal(array, before[name], f"{case.name} changed {name}")

    def test_outputs_belong_to_the_caller(self, opened: Opener) -> None:
        for case in self.cases:
            session = opened(case)
            arrays = case.inputs(3, 0)
            expected = {name: array.copy() for name, array in case.answer(arrays).items()}
            first = session.run(arrays)
            session.run(case.inputs(3, 3))  # equal shapes, so that a buffer would be used again
            for array in arrays.values():
                array[...] = 0  # an output that aliases an input changes now
            self._check(case, first, expected)
            for array in first.values():
                array[...] = 0  # the caller may write
            again = case.inputs(3, 0)
            self._check(case, session.run(again), expected)

    def test_calls_repeat_bit_for_bit(self, opened: Opener) -> None:
        case = self.cases[0]
        session = opened(case)
        arrays = case.inputs(4, 5)
        first = session.run(arrays)
        for _ in range(3):
            _equal(session.run(arrays), first)

    @pytest.mark.parametrize("streams", [1, 2])
    def test_concurrent_calls_agree_when_it_claims_thread_safety(
        self, opened: Opener, streams: int
    ) -> None:
        case = self.cases[0]
        session = opened(case, streams=streams)
        if not session.thread_safe:
            assert session.concurrency == 1, "only a thread-safe session gains from concurrency"
            return
        batches = [case.inputs(1 + seed % 3, seed) for seed in range(24)]
        alone = [session.run(arrays) for arrays in batches]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(session.run, batches * 4))
        for outputs, expected in zip(together, alone * 4, strict=True):
            _equal(outputs, expected)

    def test_more_threads_give_the_same_answer(self, opened: Opener) -> None:
        case = self.cases[0]
        arrays = case.inputs(8, 2)
        self._check(case, opened(case, threads=2).run(arrays), case.answer(arrays))

    def test_wrong_inputs_are_refused_in_clear_words(self, opened: Opener) -> None:
        case = self.cases[0]
        session = opened(case)
        (spec,) = case.signature.inputs
        good = case.inputs(2, 0)[spec.name]
        wrong = {
            "missing": {},
            "no input called 'other'": {spec.name: good, "other": good},
            "float64[2, 4]": {spec.name: good.astype(np.float64)},
            "float32[2, 5]": {spec.name: np.zeros((2, 5), np.float32)},
            "float32[4]": {spec.name: good[0]},
            "takes an array": {spec.name: good.tolist()},
        }
        for text, arrays in wrong.items():
            with pytest.raises(InputError) as caught:
                session.run(arrays)
            assert text in str(caught.value)
            if "other" not in arrays:
                assert f"'{spec.name}'" in str(caught.value)
        # A refusal leaves the session usable.
        self._check(case, session.run({spec.name: good}), case.answer({spec.name: good}))

    def test_closing_twice_is_fine_and_running_afterwards_is_an_error(self, opened: Opener) -> None:
        case = self.cases[0]
        session = opened(case)
        session.run(case.inputs(1, 0))
        session.close()
        session.close()
        with pytest.raises(StropError, match="closed"):
            session.run(case.inputs(1, 0))

    def test_an_unknown_option_is_refused(self, tmp_path: Path) -> None:
        model = self.write(self.cases[0], tmp_path / "model")
        workdir = tmp_path / "artifact"
        workdir.mkdir()
        with pytest.raises(InputError, match="wings"):
            self._engine().build(model, {"wings": 2}, workdir)
        assert not self._engine().is_exact({"wings": 2})

    def test_builds_are_reproducible_and_stand_alone(self, tmp_path: Path) -> None:
        model = self.write(self.cases[0], tmp_path / "model")
        before = digest_of_tree(model.path)
        digests = []
        for name in ("one", "two"):
            workdir = tmp_path / name
            workdir.mkdir()
            artifact = self._engine().build(model, {}, workdir)
            assert artifact.is_relative_to(workdir) and artifact.exists()
            assert not any(file.is_symlink() for file in workdir.rglob("*"))
            digests.append(digest_of_tree(workdir))
        assert digests[0] == digests[1], "equal builds give equal bytes, or the cache is useless"
        assert digest_of_tree(model.path) == before, "build changed the model"

    def test_says_how_to_install_it_when_it_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
        answer = self._engine().available()
        assert not answer
        assert "pip install" in answer.reason
        spec = SessionSpec(
            engine=self.engine, artifact=str(tmp_path), signature=self.cases[0].signature
        )
        with pytest.raises(InputError, match="pip install"):
            engines.open_session(spec)

    def _engine(self) -> Engine:
        return engines.get(self.engine)

    def _check(
        self, case: Case, outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]
    ) -> None:
        assert outputs.keys() == expected.keys()
        for name, array in outputs.items():
            assert array.shape == expected[name].shape, f"{case.name}: {name}"
            np.testing.assert_allclose(
                array.astype(np.float64),
                expected[name].astype(np.float64),
                rtol=self.tolerance,
                atol=self.tolerance,
                err_msg=f"{case.name}: {name}",
            )


def _equal(outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert outputs.keys() == expected.keys()
    for name, array in outputs.items():
        np.testing.assert_array_equal(array, expected[name], name)
