from __future__ import annotations

import numpy as np
import pytest

from strop.proof import (
    agreement_p,
    agreement_upper,
    betting_p,
    method_for,
    prove,
    salted_order,
    trinomial_p,
    trinomial_upper,
)


def binary(n, b, c):
    d = np.zeros(n)
    d[:b], d[b : b + c] = 1, -1
    return d


def test_binary_scores_get_the_exact_trinomial():
    test = prove(binary(1500, 4, 6), 0.01, 0.05, kind="binary")
    assert test.method == "exact trinomial"
    assert test.p == trinomial_p(4, 6, 1500, 0.01)
    assert test.upper == pytest.approx(trinomial_upper(4, 6, 1500, 0.05))
    assert test.proven
    assert (test.n, test.groups, test.mean) == (1500, 1500, pytest.approx(-2 / 1500))
    assert any("Tango" in reference for reference in test.references)


def test_agreement_is_stricter_than_accuracy():
    changed = np.abs(binary(1500, 8, 8))
    test = prove(changed, 0.01, 0.05, kind="agreement")
    assert test.method == "Clopper-Pearson"
    assert test.p == agreement_p(16, 1500, 0.01)
    assert test.upper == agreement_upper(16, 1500, 0.05)
    assert not test.proven
    assert prove(binary(1500, 8, 8), 0.01, 0.05, kind="binary").proven


def test_bounded_scores_are_bet_on_in_salted_order():
    d = np.random.default_rng(0).normal(0.0, 0.05, 800)
    test = prove(d, 0.01, 0.05, kind="bounded", v_search=0.0025, salt="digest")
    ordered = d[salted_order(range(800), "digest")]
    assert test.method == "betting"
    assert test.p == betting_p(ordered, 0.01, v_search=0.0025, alpha=0.05)
    assert test.proven
    assert test.upper <= 0.01


@pytest.mark.parametrize("kind", ["binary", "agreement", "bounded"])
def test_groups_larger_than_one_are_bet_on_whole(kind):
    d, groups = np.zeros(2000), np.repeat(np.arange(500), 4)
    test = prove(d, 0.01, 0.05, kind=kind, groups=groups, v_search=0.0)
    assert test.method == "clustered betting"
    assert (test.n, test.groups) == (2000, 500)
    assert test.proven
    # 300 groups are 300 bets, however many rows they hold.
    few = prove(d, 0.01, 0.05, kind=kind, groups=np.repeat(np.arange(250), 8), v_search=0.0)
    assert not few.proven


def test_groups_of_one_keep_the_exact_test():
    groups = [f"row {i}" for i in range(400)]
    assert prove(np.zeros(400), 0.01, 0.05, kind="binary", groups=groups).method == (
        "exact trinomial"
    )


def test_row_order_of_grouped_data_does_not_matter():
    rng = np.random.default_rng(1)
    d, groups = rng.choice([-1.0, 0.0, 1.0], 900, p=[0.01, 0.98, 0.01]), np.arange(900) // 3
    shuffle = rng.permutation(900)
    first = prove(d, 0.02, 0.05, kind="binary", groups=groups, salt="s")
    second = prove(d[shuffle], 0.02, 0.05, kind="binary", groups=groups[shuffle], salt="s")
    assert first.p == pytest.approx(second.p)
    assert first.upper == pytest.approx(second.upper)


@pytest.mark.parametrize("b", range(0, 16, 3))
def test_verdict_and_bound_agree(b):
    for kind in ("binary", "agreement"):
        test = prove(binary(1200, b, 0), 0.01, 0.05, kind=kind)
        assert test.proven == (test.p <= 0.05) == (test.upper <= 0.01)


def test_method_depends_on_kind_and_clusters_alone():
    assert method_for("binary", clustered=False) == "exact trinomial"
    assert method_for("agreement", clustered=False) == "Clopper-Pearson"
    assert method_for("bounded", clustered=False) == "betting"
    assert method_for("agreement", clustered=True) == "clustered betting"


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="use kind 'bounded'"):
        prove([0.5], 0.01, 0.05, kind="binary")
    with pytest.raises(ValueError, match="kind 'agreement' takes"):
        prove([-1.0], 0.01, 0.05, kind="agreement")
    with pytest.raises(ValueError, match="clip or rescale"):
        prove([3.0], 0.01, 0.05, kind="bounded")
    with pytest.raises(ValueError, match="bca_upper"):
        prove([0.0], 0.01, 0.05, kind="set")
    with pytest.raises(ValueError, match="tolerance is 1"):
        prove([0.0], 1, 0.05, kind="binary")
    with pytest.raises(ValueError, match="at least one"):
        prove([], 0.01, 0.05, kind="binary")
    with pytest.raises(ValueError, match="groups has shape"):
        prove([0.0, 0.0], 0.01, 0.05, kind="binary", groups=["a"])
