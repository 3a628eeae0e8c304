"""What may be claimed: statistics as pure functions over arrays, each with its reference.

Quality: :func:`prove` tests whether a drop stays within a tolerance, by one method for each kind
of score; :func:`fixed_sequence` and :func:`ledger_alpha` keep the error rate over several
candidates and several runs; :func:`examples_needed` and :func:`max_disagreement` say beforehand
what a number of examples can prove. Speed: :func:`launch_log_ratio` and :func:`ratio_interval`.
"""

from strop.proof.betting import (
    betting_p,
    betting_upper,
    clustered_d,
    salted_order,
    second_moment,
)
from strop.proof.binomial import (
    agreement_p,
    agreement_upper,
    clopper_pearson,
    mean_interval,
)
from strop.proof.bootstrap import BootstrapRefused, Resamples, bca_upper, resample
from strop.proof.equivalence import RELATIVE_ERROR, Equivalence, equivalence
from strop.proof.power import (
    examples_needed,
    max_disagreement,
    power_agreement,
    power_betting,
    power_binary,
)
from strop.proof.quality import Kind, Method, QualityTest, method_for, prove
from strop.proof.sequence import fixed_sequence, ledger_alpha
from strop.proof.speed import (
    Interval,
    clean_queries_needed,
    launch_log_ratio,
    median_interval,
    quantile_interval,
    ratio_interval,
)
from strop.proof.trinomial import (
    RejectionRegion,
    rejection_region,
    trinomial_p,
    trinomial_upper,
)

__all__ = [
    "RELATIVE_ERROR",
    "BootstrapRefused",
    "Equivalence",
    "Interval",
    "Kind",
    "Method",
    "QualityTest",
    "RejectionRegion",
    "Resamples",
    "agreement_p",
    "agreement_upper",
    "bca_upper",
    "betting_p",
    "betting_upper",
    "clean_queries_needed",
    "clopper_pearson",
    "clustered_d",
    "equivalence",
    "examples_needed",
    "fixed_sequence",
    "launch_log_ratio",
    "ledger_alpha",
    "max_disagreement",
    "mean_interval",
    "median_interval",
    "method_for",
    "power_agreement",
    "power_betting",
    "power_binary",
    "prove",
    "quantile_interval",
    "ratio_interval",
    "rejection_region",
    "resample",
    "salted_order",
    "second_moment",
    "trinomial_p",
    "trinomial_upper",
]
