from __future__ import annotations

import base64
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import strop
from strop import report
from strop.errors import InputError, MissingExtra, StropError
from strop.records import Result

from . import made

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def outcome(improved_folder: Path) -> strop.Outcome:
    return strop.Outcome.read(improved_folder)


def test_the_plot_is_a_document_of_its_own(outcome: strop.Outcome, tmp_path: Path) -> None:
    picture = outcome.plot()
    assert picture._repr_svg_() == picture.svg
    root = ElementTree.fromstring(picture.svg)
    assert root.tag == f"{SVG}svg"
    marks = [it for it in root.iter(f"{SVG}g") if it.get("class", "").startswith("mark ")]
    scored = [it for it in outcome.result.trials if it.evidence.search_quality is not None]
    assert len(marks) == len(scored) > 5
    texts = {it.text for it in root.iter(f"{SVG}text")}
    assert {"onnxruntime", "openvino", "delivered", "the original"} <= texts
    assert "http" not in picture.svg.replace("http://www.w3.org/2000/svg", "")
    assert picture.save(tmp_path / "plot.svg").read_text() == picture.svg
    assert "speed against quality lost" in repr(picture)


def test_the_cell_shows_the_result_and_the_plot(outcome: strop.Outcome) -> None:
    html = outcome._repr_html_()
    assert "2.9× faster, proven to lose less than 1 point of accuracy." in html
    assert "2.31 ms" in html
    assert str(outcome.folder / "report.html") in html
    assert "<script" not in html
    (encoded,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert base64.b64decode(encoded).decode() == outcome.plot().svg


def test_names_from_outside_are_escaped() -> None:
    result = made.improved()
    trials = list(result.trials)
    recipe = trials[1].recipe
    deploy = recipe.deploy.model_copy(update={"engine": "<b>&\x07"})
    trials[1] = trials[1].model_copy(
        update={"recipe": recipe.model_copy(update={"deploy": deploy})}
    )
    changed = result.model_copy(update={"trials": tuple(trials), "warnings": ("<script>",)})
    assert "<b>" not in report.plot(changed).svg
    ElementTree.fromstring(report.plot(changed).svg)
    assert "<script>" not in report.summary(changed, report="r")


def test_nothing_scored_is_nothing_to_draw() -> None:
    result = made.improved().model_copy(update={"trials": ()})
    with pytest.raises(StropError, match="nothing to draw"):
        report.plot(result)
    assert "2.9× faster" in report.summary(result, report="r")


def test_a_folder_without_a_result_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"result\.json"):
        strop.Outcome.read(tmp_path)


def test_a_dataframe_has_a_row_a_trial(outcome: strop.Outcome) -> None:
    pandas = pytest.importorskip("pandas")
    frame = outcome.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.index) == [trial.number for trial in outcome.result.trials]
    assert frame.loc[0, "recipe"] == str(outcome.result.original.recipe)


def test_without_pandas_the_way_out_is_named(
    outcome: strop.Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"pip install 'strop\[notebook\]'"):
        outcome.to_dataframe()
    assert isinstance(outcome.result, Result)
    assert len(outcome.rows()) == len(outcome.result.trials)
