from __future__ import annotations

import pytest

from strop.records import Evidence, Interval, Memory, Result
from strop.report import wording
from strop.report.numbers import Score

from . import made


def headline(result: Result) -> str:
    return wording.headline(result, Score.of(result))


def with_speed(low: float, estimate: float, high: float) -> Result:
    base = made.improved()
    found = made.speedup("original", 1.0).model_copy(
        update={"ratio": Interval(estimate=estimate, low=low, high=high)}
    )
    evidence = base.delivered.evidence.model_copy(update={"speedups": (found,)})
    return made.improved(delivered=base.delivered.model_copy(update={"evidence": evidence}))


@pytest.mark.parametrize(
    ("low", "estimate", "high", "start"),
    [
        (2.81, 2.87, 2.93, "2.9× faster, proven"),
        (13.5, 59.4, 261.9, "At least 13× faster, proven"),
        (1.59, 2.4, 3.6, "At least 1.5× faster, proven"),
        (0.9, 1.4, 2.2, "A better version, proven"),
        (0.93, 0.97, 1.01, "A better version, proven"),
        (float("nan"), 2.0, float("nan"), "A better version, proven"),
        (-float("inf"), 2.0, float("inf"), "A better version, proven"),
        (0.0, 2.0, 3.0, "A better version, proven"),
    ],
)
def test_the_headline_promises_no_more_than_the_interval(
    low: float, estimate: float, high: float, start: str
) -> None:
    assert headline(with_speed(low, estimate, high)).startswith(start)


@pytest.mark.parametrize(
    ("goal", "words"), [("size", "3.9× smaller, proven"), ("memory", "1.9× less memory, proven")]
)
def test_the_headline_speaks_of_the_goal(goal: str, words: str) -> None:
    target = made.improved().target.model_copy(update={"goal": goal})
    assert headline(made.improved(target=target)).startswith(words)


def test_a_larger_file_is_not_called_smaller() -> None:
    base = made.improved()
    target = base.target.model_copy(update={"goal": "size"})
    evidence = Evidence(memory=Memory(peak=1, weights=1, file=10**9))
    result = made.improved(
        target=target, delivered=base.delivered.model_copy(update={"evidence": evidence})
    )
    assert headline(result).startswith("A better version")


def test_agreement_is_said_in_answers() -> None:
    base = made.improved()
    assert base.claim is not None
    quality = made.quality(0.001).model_copy(update={"kind": "agreement", "metric": "agreement"})
    evidence = base.delivered.evidence.model_copy(
        update={"search_quality": quality, "prove_quality": quality}
    )
    result = made.improved(
        trials=(),
        claim=base.claim.model_copy(update={"metric": "agreement"}),
        delivered=base.delivered.model_copy(update={"evidence": evidence}),
        original=base.original.model_copy(update={"evidence": Evidence()}),
    )
    assert headline(result) == "2.9× faster, proven to change fewer than 1% of the answers."


def test_a_faster_equivalent_keeps_its_answers() -> None:
    base = made.unimproved(status="improved", reason="")
    assert headline(base) == "1.5× faster, with the same answers."


def test_a_reused_proof_set_is_called_so() -> None:
    base = made.improved()
    assert base.claim is not None
    result = made.improved(claim=base.claim.model_copy(update={"run": 2}))
    facts = dict(wording.facts(result, Score.of(result)))
    assert facts["Use of the proof set"] == (
        "run 2, at an error of 0.83% out of 5%: the set counts as reused"
    )


def test_groups_are_told_where_rows_are_not_independent() -> None:
    base = made.improved()
    assert base.claim is not None
    result = made.improved(claim=base.claim.model_copy(update={"groups": 700}))
    facts = dict(wording.facts(result, Score.of(result)))
    assert facts["Examples"] == "4,200 in 700 independent groups"
