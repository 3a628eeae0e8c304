from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop import report
from strop.errors import InputError, StropError
from strop.records import (
    Candidate,
    DataSummary,
    Evidence,
    Interval,
    Memory,
    Quality,
    Recipe,
    Result,
    Step,
    Target,
    Trial,
)

from . import made
from .reading import Page

NAN = math.nan


def read(folder: Path) -> tuple[str, Page]:
    path = report.write(folder)
    assert path == folder / "report.html"
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert page.faults == []
    return source, page


def written(tmp_path: Path, result: Result, **more: Any) -> Page:
    return read(made.folder(tmp_path / "out", result, **more))[1]


def test_improved_page_says_what_was_won_and_on_what_grounds(improved_folder: Path) -> None:
    source, page = read(improved_folder)
    assert "2.9× faster, proven to lose less than 1 point of accuracy." in page.text
    assert "A median call takes 2.31 ms instead of 6.64 ms" in page.text
    assert "2.87× (95% interval 2.81 to 2.93) the speed of the original" in page.text
    assert "at most 0.54 points" in page.text
    assert "run 1, at an error of 2.5% out of 5%" in page.text
    assert "The graph clean-up took the network from 124 operators to 71." in page.text
    assert "12 examples appear twice" in page.text
    assert "strop verify bundle" in page.text
    assert "openvino 2026.2.0" in page.text
    assert len(source.encode()) < 3_000_000


def test_sections_come_in_the_order_of_a_reader(improved_folder: Path) -> None:
    _, page = read(improved_folder)
    assert [section["id"] for section in page.all("section")] == [
        "glance",
        "steps",
        "claim",
        "candidates",
        "engines",
        "calls",
        "trials",
        "operators",
        "warnings",
        "data",
        "machine",
        "time",
        "verify",
        "versions",
    ]


def test_the_clean_up_is_told_where_only_a_trial_went_through_it(tmp_path: Path) -> None:
    result = made.improved()
    plain = result.delivered.evidence.model_copy(
        update={"operators_before": None, "operators_after": None}
    )
    delivered = result.delivered.model_copy(update={"evidence": plain})
    counted = result.trials[1].evidence.model_copy(
        update={"operators_before": 30, "operators_after": 20}
    )
    trials = list(result.trials)
    trials[1] = trials[1].model_copy(update={"evidence": counted})
    changed = result.model_copy(update={"delivered": delivered, "trials": tuple(trials)})
    (tmp_path / "result.json").write_text(changed.to_json())
    _, page = read(tmp_path)
    assert "from 30 operators to 20. What was delivered does without it." in page.text


def test_a_throughput_goal_is_told_in_examples_a_second(tmp_path: Path) -> None:
    result = made.improved()
    evidences = []
    for candidate, streams, rate in ((result.original, 1, 150.6), (result.delivered, 4, 1711.0)):
        (latency,) = candidate.evidence.latency
        latency = latency.model_copy(update={"streams": streams, "throughput": rate})
        evidence = candidate.evidence.model_copy(update={"latency": (latency,)})
        evidences.append(candidate.model_copy(update={"evidence": evidence}))
    changed = result.model_copy(
        update={
            "target": result.target.model_copy(update={"goal": "throughput"}),
            "original": evidences[0],
            "delivered": evidences[1],
        }
    )
    (tmp_path / "result.json").write_text(changed.to_json())
    _, page = read(tmp_path)
    assert "It serves 1,711 examples a second instead of 151:" in page.text
    assert "counted while calls ran at once" in page.text
    assert "1, 4 at once" in page.text


def test_fourfold_table_counts_the_scores(improved_folder: Path) -> None:
    _, page = read(improved_folder)
    with np.load(improved_folder / "bundle" / "evidence" / "scores.npz") as arrays:
        before, after = arrays["prove/reference"], arrays["prove/delivered"]
    lost, won = int(((before == 1) & (after == 0)).sum()), int(((before == 0) & (after == 1)).sum())
    assert lost > won > 0
    both = int(((before == 1) & (after == 1)).sum())
    neither = len(before) - both - lost - won
    assert f"original right {both:,} {lost} original wrong {won} {neither}" in page.text


def test_unimproved_page_says_why_and_names_the_nearest_miss(unimproved_folder: Path) -> None:
    _, page = read(unimproved_folder)
    assert "Nothing better could be claimed: you get your own model on another engine" in page.text
    assert "Why: too few examples to prove anything but equivalence." in page.text
    assert "The nearest miss was int8-static" in page.text
    assert "Fastest equivalent and delivered" in page.text
    assert "outputs compared" in page.text
    assert not page.all("svg", "claim")


def test_nothing_at_all_was_better(tmp_path: Path) -> None:
    original = made.improved().original
    page = written(
        tmp_path, made.unimproved(equivalent=original, delivered=original, near_miss=None)
    )
    assert "you get your own model back, unchanged" in page.text
    assert "Original, fastest equivalent and delivered" in page.text


def test_without_evidence_the_rest_still_stands(tmp_path: Path) -> None:
    folder = made.folder(tmp_path / "out", made.improved())
    shutil.rmtree(folder / "bundle")
    _, page = read(folder)
    assert not page.all("section", "calls")
    assert "20 were right only with the original and 13 only with the delivered" in page.text
    assert page.all("svg", "pareto")


def test_a_bundle_is_read_by_itself(improved_folder: Path) -> None:
    bundle = improved_folder / "bundle"
    before = sorted(bundle.rglob("*"))
    path = report.write(bundle)
    assert path == improved_folder / "bundle-report.html"
    assert sorted(bundle.rglob("*")) == before  # what the manifest seals stays as it is
    page = Page(path.read_text(encoding="utf-8"))
    assert page.faults == []
    assert page.all("svg", "calls")
    assert "strop verify bundle" in page.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("timings.json", b"{"),
        ("timings.json", b'{"a/b": {"quads": [[[1, 2, 0, 1]]]}}'),
        ("timings.json", b"[1, 2]"),
        ("scores.npz", b"PK\x03\x04 not a zip"),
        ("scores.npz", b""),
    ],
)
def test_damaged_evidence_is_named(improved_folder: Path, name: str, content: bytes) -> None:
    (improved_folder / "bundle" / "evidence" / name).write_bytes(content)
    _, page = read(improved_folder)
    assert f"The evidence file {name} cannot be read" in page.text


def test_timings_with_zeros_do_not_pass_for_launches(improved_folder: Path) -> None:
    raw = made.timings()
    raw["original/delivered"]["quads"][0][0][0] = 0.0
    (improved_folder / "bundle" / "evidence" / "timings.json").write_text(json.dumps(raw))
    _, page = read(improved_folder)
    assert "timings.json cannot be read" in page.text


def test_one_timing_under_two_names_is_shown_once(tmp_path: Path) -> None:
    timed = made.pair(4e-3, 2e-3)
    page = written(
        tmp_path,
        made.improved(),
        raw={"equivalent/delivered": timed, "original/delivered": timed},
    )
    assert len(page.all("svg", "launches")) == 1


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no result"):
        report.write(tmp_path)
    (tmp_path / "result.json").write_text('{"schema": 1}')
    with pytest.raises(StropError, match="not a valid Result"):
        report.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_failed_write_leaves_the_old_report(
    improved_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = report.write(improved_folder)
    before, names = path.read_bytes(), set(improved_folder.iterdir())

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match="disk full"):
        report.write(improved_folder)
    assert path.read_bytes() == before
    assert set(improved_folder.iterdir()) == names


def test_writing_twice_gives_the_same_bytes(improved_folder: Path) -> None:
    first = report.write(improved_folder).read_bytes()
    assert report.write(improved_folder).read_bytes() == first


EVIL = "</script></style><script>boom()</script><img src=x onerror=boom()>\"'`{{7*7}}&amp;"


def test_nothing_from_outside_becomes_markup(tmp_path: Path) -> None:
    """Every text that a user or a library can choose, hostile at once."""
    recipe = Recipe(
        steps=(Step(technique=EVIL, params={EVIL: EVIL}),), deploy={"engine": EVIL, "device": EVIL}
    )
    quality = made.quality(0.001).model_copy(update={"metric": EVIL})
    evidence = Evidence(
        search_quality=quality,
        prove_quality=quality,
        speedups=(made.speedup("anchor", 2.0), made.speedup("original", 2.0)),
        memory=Memory(peak=1, weights=2, file=3),
        notes=(EVIL,),
    )
    base = made.improved()
    assert base.claim is not None
    candidate = Candidate(recipe=recipe, text=EVIL, evidence=evidence)
    machine = made.MACHINE.model_copy(
        update={"cpu": EVIL, "isa": (EVIL,), "platform": EVIL, "packages": {EVIL: EVIL}}
    )
    result = made.improved(
        reason=EVIL,
        status="unimproved",
        model=EVIL + "\x00\x1b[31m\u202e",
        claim=base.claim.model_copy(
            update={"metric": EVIL, "method": EVIL, "proof_set": EVIL, "isa": (EVIL,)}
        ),
        data=DataSummary(
            source=EVIL, content_digest=EVIL, examples=3, roles={EVIL: 3}, metric=EVIL
        ),
        original=candidate,
        equivalent=candidate,
        delivered=candidate,
        near_miss={"recipe": recipe, "text": EVIL, "speedup": 2.0, "drop": 0.1, "reason": EVIL},
        trials=tuple(
            Trial(
                number=number,
                recipe=recipe,
                status=status,
                stage="time",
                reason=EVIL,
                evidence=evidence,
                seconds={EVIL: 1.0},
            )
            for number, status in enumerate(("chosen", "front", "alive", "dropped", "failed"))
        ),
        warnings=(EVIL,),
        machine=machine,
        target=Target(machine=machine, device=EVIL),
        seconds={EVIL: 2.0},
        bundle="bundle",
    )
    folder = made.folder(tmp_path / "out", result, raw={EVIL: made.pair(2e-3, 1e-3)})
    source, page = read(folder)
    assert "boom()" in page.text  # it is shown, as text
    assert "<script>boom" not in source and "<img" not in source
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert "{{7*7}}" in page.text
    assert not set("\x00\x1b\u202e") & set(source)


def test_the_policy_admits_only_the_pages_own_script(improved_folder: Path) -> None:
    source, page = read(improved_folder)
    policy = next(
        found["content"] for found in page.all("meta") if "Security" in str(found.get("http-equiv"))
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http:" not in source and "https:" not in source and "@import" not in source
    assert "url(" not in source


def unknown(value: float) -> Interval:
    return Interval(estimate=value, low=NAN, high=NAN)


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf, 0.0])
def test_figures_that_are_no_numbers_leave_gaps(tmp_path: Path, value: float) -> None:
    strange = Interval(estimate=value, low=-math.inf, high=math.inf)
    base = made.improved()
    assert base.claim is not None
    latency = made.latency(1e-3).model_copy(
        update={"p50": strange, "p90": unknown(value), "p99": strange, "throughput": value}
    )
    quality = made.quality(0.0).model_copy(
        update={
            "drop": strange,
            "reference": value,
            "candidate": value,
            "max_relative_error": value,
        }
    )
    speedups = tuple(
        made.speedup(against, 1.0).model_copy(update={"ratio": strange})
        for against in ("anchor", "original", "equivalent")
    )
    evidence = Evidence(
        search_quality=quality, prove_quality=quality, latency=(latency,), speedups=speedups
    )
    three = {
        name: getattr(base, name).model_copy(update={"evidence": evidence})
        for name in ("original", "equivalent", "delivered")
    }
    trials = tuple(trial.model_copy(update={"evidence": evidence}) for trial in base.trials)
    result = made.improved(
        **three,
        trials=trials,
        tolerance=abs(value),
        claim=base.claim.model_copy(update={"upper": value, "tolerance": value, "p": value}),
        seconds={"build": value, "total": value},
    )
    folder = made.folder(tmp_path / "out", result, raw=made.timings())
    source, _ = read(folder)
    for word in ('="nan', '="inf', " nan", ">nan", ">inf", " inf%"):
        assert word not in source


def test_a_set_level_metric_is_marked_as_approximate(tmp_path: Path) -> None:
    base = made.improved()
    quality = Quality(
        metric="f1",
        kind="set",
        role="prove",
        n=4_200,
        groups=4_200,
        reference=0.812,
        candidate=0.81,
        drop=unknown(0.002),
        lost=0,
        won=0,
        changed=40,
        max_relative_error=0.02,
    )
    evidence = base.delivered.evidence.model_copy(update={"prove_quality": quality})
    assert base.claim is not None
    page = written(
        tmp_path,
        made.improved(
            delivered=base.delivered.model_copy(update={"evidence": evidence}),
            claim=base.claim.model_copy(
                update={"metric": "f1", "asymptotic": True, "method": "paired BCa bootstrap"}
            ),
            data=base.data.model_copy(update={"metric": "f1"}),
            trials=(),
        ),
    )
    assert "shown, approximately, to lose less than 0.01 of f1" in page.text
    assert "asymptotic: the error rate holds only approximately" in page.text
    assert "Nothing was tried." in page.text


def test_real_scores_get_a_histogram_of_their_changes(tmp_path: Path) -> None:
    base = made.improved()
    found = base.delivered.evidence.prove_quality
    assert found is not None
    quality = found.model_copy(update={"kind": "bounded", "metric": "cosine"})
    evidence = base.delivered.evidence.model_copy(
        update={"prove_quality": quality, "search_quality": quality}
    )
    rng = np.random.default_rng(0)
    before = np.ones(500)
    page = written(
        tmp_path,
        made.improved(
            delivered=base.delivered.model_copy(update={"evidence": evidence}),
            data=base.data.model_copy(update={"metric": "cosine"}),
            trials=(),
        ),
        arrays={"prove/reference": before, "prove/delivered": before - rng.beta(1, 90, 500)},
    )
    bars = [bar for bar in page.all("rect", "bar") if bar.get("y") and float(bar["y"] or 0) > 10]
    assert page.all("svg", "changes") and len(bars) > 10
    assert "score lower than with the original" in page.text


def test_thousands_of_trials_stay_a_small_page(tmp_path: Path) -> None:
    base = made.trials()
    many = tuple(
        base[number % len(base)].model_copy(
            update={
                "number": number,
                "status": "front" if number == 4_999 else "dropped",
                "reason": "x" * 5_000,
            }
        )
        for number in range(5_000)
    )
    folder = made.folder(tmp_path / "out", made.improved(trials=many))
    source, page = read(folder)
    assert len(source.encode()) < 3_000_000
    assert "further trials stand in evidence/trials.jsonl" in page.text
    assert "t4999" in {row.get("id") for row in page.all("tr")}


def test_importing_the_room_is_cheap() -> None:
    import subprocess
    import sys

    code = "import sys, strop.report; print([m for m in ('torch', 'jinja2') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_metric_of_ones_own_keeps_its_files_name(tmp_path: Path) -> None:
    base = made.improved()

    def named(candidate: Candidate) -> Candidate:
        found = {
            key: value.model_copy(update={"metric": "score.py:iou"})
            for key in ("search_quality", "prove_quality")
            if (value := getattr(candidate.evidence, key)) is not None
        }
        evidence = candidate.evidence.model_copy(update=found)
        return candidate.model_copy(update={"evidence": evidence})

    result = made.improved(
        original=named(base.original),
        equivalent=named(base.equivalent),
        delivered=named(base.delivered),
        data=base.data.model_copy(update={"metric": "score.py:iou"}),
    )
    source, page = read(made.folder(tmp_path / "out", result))
    assert "score.py:iou" in page.text and "Score.py" not in page.text
    assert "rotate(" not in source  # nothing stands beside an axis, where numbers would hit it
