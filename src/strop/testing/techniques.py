"""What every technique must do; subclass :class:`TechniqueConformance` to check yours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from strop import data, engines, techniques
from strop.data import Dataset
from strop.engines import Session
from strop.models.model import Model, digest_of_tree
from strop.models.parity import relative_error
from strop.records import SessionSpec
from strop.techniques import Context, Technique
from strop.testing import graphs
from strop.testing.graphs import Case
from strop.testing.targets import target

_ROUNDING = 1e-5
"""How far an exact technique may stray, relative to the answer."""


class TechniqueConformance:
    """Checks of the contract in `strop.techniques`: subclass, name the technique, run pytest.

    Override :meth:`write` when the technique takes another form than ONNX, and
    :meth:`write_unsuitable` when it can do something for any model.

    Examples
    --------
    >>> class TestMyTechnique(TechniqueConformance):
    ...     technique = "my-technique"
    """

    technique: ClassVar[str]
    """The technique's name, as its entry point spells it."""
    case: ClassVar[Case] = graphs.perceptron()
    """A network that it can do something for."""
    tolerance: ClassVar[float] = 0.2
    """How far outputs may stray where it changes the numbers, relative to the answer."""
    settings: ClassVar[int] = 16
    """How many settings of the grid are tried, evenly spread; the first is the default."""

    def write(self, case: Case, folder: Path) -> Model:
        """The case as a model in the form that the technique consumes."""
        return case.write(folder)

    def write_unsuitable(self, folder: Path) -> Model:
        """A model that it can do nothing for."""
        return graphs.no_weights().write(folder)

    def examples(self, model: Model) -> Mapping[str, Dataset]:
        """Examples for the roles that the technique reads, and for no other."""
        roles = self._technique().roles
        return {
            role: data.read(self.case.inputs(64, number), model.signature)
            for number, role in enumerate(roles, start=10)
        }

    def test_is_registered_and_describes_itself(self) -> None:
        technique = self._technique()
        assert technique.name == self.technique
        assert technique.version >= 1
        assert technique.consumes and technique.produces
        assert any(self._engines()), f"no engine here runs {technique.produces}"
        assert isinstance(technique.produces, tuple), "a tuple of forms"

    def test_applies_to_the_case(self, tmp_path: Path) -> None:
        answer = self._technique().applies(self.write(self.case, tmp_path / "model"), target())
        assert answer, answer.reason

    def test_refuses_an_unsuitable_model_with_a_reason(self, tmp_path: Path) -> None:
        answer = self._technique().applies(self.write_unsuitable(tmp_path / "model"), target())
        assert not answer
        assert answer.reason and not answer.reason.endswith("."), "a clause without a full stop"

    def test_space_is_the_same_whenever_it_is_asked_for(self, tmp_path: Path) -> None:
        model = self.write(self.case, tmp_path / "model")
        space = self._technique().space(model, target())
        assert space == self._technique().space(Model.open(model.path), target())
        assert space == type(space).from_json(space.to_json()), "values survive JSON"

    def test_writes_a_sealed_model_of_the_declared_form(self, tmp_path: Path) -> None:
        before = self.write(self.case, tmp_path / "model")
        after = self._apply(before, tmp_path / "out")
        assert after.path == (tmp_path / "out").resolve(), "it writes into ctx.workdir"
        assert set(self._technique().produces) <= set(after.forms)
        assert after.signature == before.signature, "names, dtypes and free dimensions stay"
        reopened = Model.open(after.path)
        assert (reopened.digest, reopened.signature) == (after.digest, after.signature)
        for form in after.forms.values():
            assert str(tmp_path).encode() not in form.read_bytes(), "a path of this machine"

    def test_leaves_its_input_alone(self, tmp_path: Path) -> None:
        model = self.write(self.case, tmp_path / "model")
        before = _state(model.path)
        self._apply(model, tmp_path / "out")
        assert _state(model.path) == before

    def test_equal_seeds_give_equal_models(self, tmp_path: Path) -> None:
        model = self.write(self.case, tmp_path / "model")
        one = self._apply(model, tmp_path / "one", seed=3)
        np.random.seed(1)  # whoever draws from the global generator is found out
        two = self._apply(model, tmp_path / "two", seed=3)
        assert one.digest == two.digest
        assert one.meta == two.meta

    def test_every_setting_gives_a_model_that_runs_and_stays_close(self, tmp_path: Path) -> None:
        model = self.write(self.case, tmp_path / "model")
        grid = list(self._technique().space(model, target()).grid())
        bound = _ROUNDING if self._technique().exact else self.tolerance
        for number in np.unique(np.linspace(0, len(grid) - 1, self.settings).astype(int)):
            after = self._apply(model, tmp_path / f"out{number}", params=grid[number])
            session = self._open(after, tmp_path / f"artifact{number}")
            for rows in (1, 7):
                arrays = self.case.inputs(rows, rows)
                outputs, answer = session.run(arrays), self.case.answer(arrays)
                for name, array in answer.items():
                    error = relative_error(array, outputs[name])
                    assert error <= bound, f"{grid[number]}: {name} strays by {error:.2g}"
            session.close()

    def test_neighbours_in_a_batch_do_not_matter_where_it_says_so(self, tmp_path: Path) -> None:
        if not self._technique().batch_invariant:
            pytest.skip("it does not say so")
        model = self._apply(self.write(self.case, tmp_path / "model"), tmp_path / "out")
        session = self._open(model, tmp_path / "artifact")
        arrays = self.case.inputs(6, 4)
        loud = {name: array.copy() for name, array in arrays.items()}
        for array in loud.values():
            array[1:] *= 50
        quiet_row, loud_row = session.run(arrays), session.run(loud)
        for name, array in quiet_row.items():
            assert relative_error(array[:1], loud_row[name][:1]) <= _ROUNDING, name

    def _technique(self) -> Technique:
        return techniques.get(self.technique)

    def _apply(
        self,
        model: Model,
        workdir: Path,
        *,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> Model:
        workdir.mkdir()
        technique = self._technique()
        chosen = technique.space(model, target()).default if params is None else params
        teacher = model if "train" in technique.roles else None
        context = Context(workdir, target(), self.examples(model), seed, teacher=teacher)
        return technique.apply(model, chosen, context)

    def _engines(self) -> list[str]:
        """Engines here that run what it produces, those first that build in a moment."""
        forms = self._technique().produces
        found = [
            name
            for name in engines.names()
            if set(forms) & set(engines.get(name).consumes) and engines.get(name).available()
        ]
        return sorted(found, key=lambda name: engines.get(name).build_seconds)

    def _open(self, model: Model, workdir: Path) -> Session:
        workdir.mkdir()
        # Not every engine that takes the form takes what was made of this one.
        name = next(n for n in self._engines() if engines.get(n).applies(model, target()))
        artifact = engines.get(name).build(model, {}, workdir)
        spec = SessionSpec(engine=name, artifact=str(artifact), signature=model.signature)
        return engines.open_session(spec, payload=model.source.payload if model.source else None)


def _state(folder: Path) -> tuple[str, bytes]:
    return digest_of_tree(folder), (folder / "model.json").read_bytes()
