"""What calls use up, as a timed child tells it: known CPU seconds, known counters."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from strop.measure import (
    Arena,
    Conditions,
    Meter,
    Stopwatch,
    Subject,
    Usage,
    idle_watts,
    kind_of,
    pair,
    saving,
)

SPENDING = Conditions(loader="meters:load")


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages as Linux shows them, whose counters run round within a few calls."""
    root = tmp_path / "powercap"
    for number, (count, most) in enumerate(((6_900_000, 7_000_000), (0, 5_500_000))):
        folder = root / f"intel-rapl:{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"package-{number}\n")
        (folder / "max_energy_range_uj").write_text(f"{most}\n")
        (folder / "energy_uj").write_text(f"{count}\n")
    return root


def test_cpu_seconds_are_those_of_all_threads(fake, inputs, tmp_path) -> None:
    burn, spent = 0.01, tmp_path / "spent"
    spec = fake(burn=burn, burners=2, spent=str(spent))
    with Subject("one", spec, inputs, conditions=SPENDING) as subject:
        subject.load()
        sample = subject.sample(0.1)
        subject.run(1)
    assert sample.used.calls == len(sample.times)
    assert sample.used.cpu_seconds >= 2 * burn * sample.used.calls
    # By the session's own reading of the process's clock, when calls began and when they ended:
    # the timed calls, one after them, and perhaps one before them.
    *before, (_, over) = [(0.0, 0.0), *np.loadtxt(spent)[: -sample.used.calls - 1]]
    timed, (beyond, _) = np.loadtxt(spent)[-sample.used.calls - 1 : -1], np.loadtxt(spent)[-1]
    assert len(before) <= 1
    assert timed[-1, 1] - timed[0, 0] <= sample.used.cpu_seconds <= beyond - over
    assert sample.used.joules is None
    assert sample.used.seconds >= sample.times.sum()


def test_waiting_costs_no_cpu_seconds(fake, inputs) -> None:
    with Subject("one", fake(sleep=0.03), inputs, conditions=SPENDING) as subject:
        subject.load()
        used = subject.sample(0.1).used
    assert used.cpu_seconds < used.seconds / 2


def test_calls_at_once_are_counted_together(fake, inputs) -> None:
    spec = fake(streams=2, burn=0.005, burners=1)
    with Subject("one", spec, inputs, conditions=SPENDING) as subject:
        subject.load()
        flow = subject.stream(2, 0.1)
    assert flow.used.calls == len(flow.latencies)
    assert flow.used.cpu_seconds >= 0.005 * flow.used.calls
    assert flow.seconds == flow.used.seconds


def test_counters_are_read_around_the_timed_calls_alone(fake, inputs, powercap) -> None:
    spec = fake(powercap=str(powercap), microjoules=900_000)
    with Subject("one", spec, inputs, conditions=SPENDING) as subject:
        subject.load()
        subject.warm(0.0)
        # Three calls run neither counter round more than once, and one of them surely once.
        used = subject.sample(0.0).used
    assert used.calls == 3
    assert used.joules == pytest.approx(3 * 2 * 0.9)


def test_pairs_tell_what_each_side_used(fake, inputs) -> None:
    a, b = fake(burn=0.012, burners=1), fake(burn=0.003, burners=1)
    timing = pair(a, b, inputs, launches=2, quads=1, warmup_seconds=0.01, conditions=SPENDING)
    assert len(timing.a_used) == len(timing.b_used) == timing.launches == 2
    calls = [len(seconds) for seconds in timing.a_seconds]
    assert [used.calls for used in timing.a_used] == calls
    found = saving(timing.a_used, timing.b_used, "original")
    assert found is not None and found.kind == "estimated" and found.launches == 2
    for usages, burn in ((timing.a_used, 0.012), (timing.b_used, 0.003)):
        assert all(used.cpu_seconds >= burn * used.calls for used in usages)
    each = [
        [used.cpu_seconds / used.calls for used in usages]
        for usages in (timing.a_used, timing.b_used)
    ]
    ratio = np.exp(np.mean(np.log(each[0]) - np.log(each[1])))
    assert found.ratio.estimate == pytest.approx(ratio)


def test_the_arena_keeps_a_usage_a_round(fake, inputs) -> None:
    with Arena(inputs, seconds=0.01, warmup_seconds=0.0, conditions=SPENDING) as arena:
        assert arena.add("one", fake(burn=0.002, burners=1)) is None
        arena.round()
        arena.round()
        timing = arena.timings()["one"]
    assert len(timing.used) == len(timing.rounds) == 2
    assert sum(used.calls for used in timing.used) == len(timing.calls)


def test_a_stopwatch_counts_this_process() -> None:
    watch = Stopwatch()
    start = time.process_time()
    while time.process_time() - start < 0.05:
        pass
    used = watch.stop(5)
    assert used.calls == 5 and used.cpu_seconds >= 0.05 and used.joules is None


@pytest.mark.parametrize("good_reads", [0, 1])
def test_a_counter_that_fails_costs_the_joules_alone(good_reads: int) -> None:
    class Failing:
        name, wraps_at, joules_a_step = "failing", 2**32, 1e-6
        reads = 0

        def read(self) -> int:
            self.reads += 1
            if self.reads > good_reads:
                raise OSError(5, "Input/output error")
            return self.reads

    used = Stopwatch(Meter([Failing()])).stop(3)
    assert used.calls == 3 and used.joules is None
    assert idle_watts(Meter([Failing()]), seconds=0.0) is None


def test_usages_add_up_and_joules_only_where_both_are_counted() -> None:
    whole = Usage(1, 1.0, 2.0, 3.0) + Usage(2, 0.5, 0.5, 4.0)
    assert whole == Usage(3, 1.5, 2.5, 7.0)
    assert (whole + Usage(1, 1.0, 1.0)).joules is None


def test_one_uncounted_launch_makes_all_estimated() -> None:
    counted, not_counted, stuck = (Usage(1, 1.0, 1.0, joules) for joules in (5.0, None, 0.0))
    assert kind_of([counted], [counted]) == "measured"
    assert kind_of([counted], [not_counted]) == "estimated"
    assert kind_of([counted, stuck]) == "estimated"
    assert kind_of([]) == "estimated"
