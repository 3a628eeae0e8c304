from __future__ import annotations

import json

import numpy as np
import pytest

from strop.bundle import recompute, write
from strop.errors import BundleError
from strop.proof import ledger_alpha, prove, second_moment

from .conftest import altered


@pytest.mark.parametrize("proven", [False, True])
def test_every_figure_follows_from_the_evidence(make, tmp_path, proven):
    write(tmp_path / "bundle", make(proven=proven))
    figures = {figure.name: figure for figure in recompute(tmp_path / "bundle")}
    assert all(figure.agrees for figure in figures.values()), [*map(str, figures.values())]
    assert {"drop", "lost", "claim holds", "speed-up against original, low"} <= figures.keys()
    assert ("upper bound" in figures) == proven


@pytest.mark.parametrize(
    ("record", "changes", "name"),
    [
        ("claim", {"upper": 0.001}, "upper bound"),
        ("claim", {"p": 1e-9}, "p"),
        ("claim", {"tolerance": 0.0001}, "claim holds"),
        ("claim", {"confidence": 0.999999}, "claim holds"),
        ("quality", {"lost": 0}, "lost"),
        ("quality", {"candidate": 1.0}, "delivered's score"),
        ("speedup", {"launches": 10}, "speed-up against original, launches"),
    ],
)
def test_a_beautified_figure_disagrees(make, tmp_path, record, changes, name):
    contents = make(proven=True)
    evidence = contents.evidence
    if record == "claim":
        contents = altered(contents, claim=contents.claim.model_copy(update=changes))
    elif record == "quality":
        quality = evidence.prove_quality.model_copy(update=changes)
        evidence = evidence.model_copy(update={"prove_quality": quality})
    else:
        speedups = (evidence.speedups[0].model_copy(update=changes),)
        evidence = evidence.model_copy(update={"speedups": speedups})
    write(tmp_path / "bundle", altered(contents, evidence=evidence))
    differ = [it.name for it in recompute(tmp_path / "bundle") if it.agrees is False]
    assert name in differ


def test_a_set_level_claim_follows_from_its_resamples(make_set_level, tmp_path):
    contents = make_set_level()
    write(tmp_path / "bundle", contents)
    figures = {figure.name: figure for figure in recompute(tmp_path / "bundle")}
    assert all(figure.agrees for figure in figures.values()), [*map(str, figures.values())]
    assert {"drop", "n", "groups", "upper bound", "claim holds"} <= figures.keys()

    claim = contents.claim.model_copy(update={"upper": contents.claim.upper / 2})
    write(tmp_path / "bundle", altered(contents, claim=claim))
    assert [it.name for it in recompute(tmp_path / "bundle") if it.agrees is False] == [
        "upper bound"
    ]

    scores = {name: it for name, it in contents.scores.items() if name != "prove/draws"}
    write(tmp_path / "bundle", altered(contents, scores=scores))
    figure = next(it for it in recompute(tmp_path / "bundle") if it.name == "claim")
    assert figure.agrees is None
    assert "prove/draws" in figure.reason


def test_a_faster_ratio_than_was_timed_disagrees(make, tmp_path):
    contents = make()
    speedup = contents.evidence.speedups[0]
    ratio = speedup.ratio.model_copy(update={"low": speedup.ratio.low + 0.01})
    speedups = (speedup.model_copy(update={"ratio": ratio}),)
    evidence = contents.evidence.model_copy(update={"speedups": speedups})
    write(tmp_path / "bundle", altered(contents, evidence=evidence))
    differ = [it.name for it in recompute(tmp_path / "bundle") if it.agrees is False]
    assert differ == ["speed-up against original, low"]


def test_bets_are_computed_again_in_their_order(make, tmp_path):
    """Bounded scores: the bound depends on the order of bets, and on what search has shown."""
    contents = make(proven=True)
    random = np.random.default_rng(3)
    groups = contents.scores["prove/groups"]
    drops = random.normal(0.0, 0.02, len(groups))
    searched = random.normal(0.0, 0.02, 100)
    reference = np.full(len(groups), 0.5)
    v = second_moment(searched, np.arange(100))
    alpha = ledger_alpha(0.05, 3)
    test = prove(drops, 0.05, alpha, kind="bounded", groups=groups, v_search=v, salt="ab")
    other = prove(drops, 0.05, alpha, kind="bounded", groups=groups, v_search=v, salt="cd")
    assert test.proven
    assert test.p != other.p
    after = reference - drops
    changes = {"method": test.method, "upper": test.upper, "p": test.p, "run": 3}
    quality = contents.evidence.prove_quality.model_copy(update={"kind": "bounded"})
    contents = altered(
        contents,
        claim=contents.claim.model_copy(update=changes),
        evidence=contents.evidence.model_copy(update={"prove_quality": quality}),
        scores={
            **contents.scores,
            "prove/reference": reference,
            "prove/delivered": after,
            "search/drops": searched,
            "search/groups": np.arange(150),
        },
    )
    for digest in ("ab", "cd"):
        lineage = {**contents.lineage, "plan_digest": digest}
        write(tmp_path / "bundle", altered(contents, lineage=lineage))
        figures = {figure.name: figure for figure in recompute(tmp_path / "bundle")}
        assert figures["p"].agrees == (digest == "ab")
    write(tmp_path / "bundle", contents)
    claim = next(figure for figure in recompute(tmp_path / "bundle") if figure.name == "claim")
    assert claim.agrees is None
    assert "order" in claim.reason


def test_an_equivalence_without_errors_by_example_stays_open(make, tmp_path):
    write(tmp_path / "bundle", altered(make(), scores={}))
    figures = {figure.name: figure.agrees for figure in recompute(tmp_path / "bundle")}
    assert figures["claim"] is None


def test_an_equivalence_with_larger_errors_does_not_hold(make, tmp_path):
    contents = make()
    errors = contents.scores["prove/errors"].copy()
    errors[7] = 0.01
    write(
        tmp_path / "bundle", altered(contents, scores={**contents.scores, "prove/errors": errors})
    )
    figures = {figure.name: figure.agrees for figure in recompute(tmp_path / "bundle")}
    assert figures["claim holds"] is False
    assert figures["max_relative_error"] is False


def test_launches_that_are_missing_stay_open(make, tmp_path):
    write(tmp_path / "bundle", altered(make(), timings={}))
    figures = {figure.name: figure.agrees for figure in recompute(tmp_path / "bundle")}
    assert figures["speed-up against original"] is None


def test_one_launch_has_an_interval_without_ends(make, tmp_path):
    contents = make()
    timing = contents.timings["original/delivered"]
    timings = {"original/delivered": {**timing, "quads": timing["quads"][:1]}}
    write(tmp_path / "bundle", altered(contents, timings=timings))
    figures = {figure.name: figure for figure in recompute(tmp_path / "bundle")}
    assert figures["speed-up against original, high"].computed == float("inf")


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"original/delivered": {}})])
def test_damaged_evidence_is_one_error(make, tmp_path, content):
    write(tmp_path / "bundle", make())
    (tmp_path / "bundle/evidence/timings.json").write_text(content)
    with pytest.raises(BundleError, match="evidence"):
        recompute(tmp_path / "bundle")
