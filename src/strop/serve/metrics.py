"""Prometheus' text: Triton's names where Triton has them, true histograms beside them.

Nothing is counted here: the text is written from the statistics that the core keeps anyway, when
somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from strop.serve.batcher import Batcher
from strop.serve.core import Core
from strop.serve.statistics import Histogram, ModelStatistics

Value = float | int


class _Family(NamedTuple):
    name: str
    kind: str
    help: str
    value: Callable[[Batcher], Value | None]


def metrics_text(core: Core) -> bytes:
    """Everything that is known of the models that are served, in Prometheus' text format 0.0.4."""
    batchers = core.repository.batchers()
    lines: list[str] = []
    for family in _FAMILIES:
        lines += _head(family.name, family.kind, family.help)
        for batcher in batchers:
            if (value := family.value(batcher)) is not None:
                lines.append(f"{family.name}{{{_labels(batcher)}}} {_number(value)}")
    for name, help_, histogram in _HISTOGRAMS:
        lines += _head(name, "histogram", help_)
        for batcher in batchers:
            lines += _histogram(name, _labels(batcher), histogram(batcher.model.statistics))
    lines += _rejections(core, batchers)
    lines += _states(core)
    lines += _process()
    return ("\n".join(lines) + "\n").encode()


def _us(duration: str) -> Callable[[Batcher], Value]:
    return lambda batcher: getattr(batcher.model.statistics, duration).ns // 1000


def _if_cached(count: Callable[[ModelStatistics], Value]) -> Callable[[Batcher], Value | None]:
    return lambda batcher: None if batcher.cache is None else count(batcher.model.statistics)


_FAMILIES = (
    _Family(
        "nv_inference_request_success",
        "counter",
        "Number of successful inference requests",
        lambda batcher: batcher.model.statistics.success.count,
    ),
    _Family(
        "nv_inference_request_failure",
        "counter",
        "Number of failed inference requests, refused ones included",
        lambda batcher: sum(batcher.model.statistics.refused.values()),
    ),
    _Family(
        "nv_inference_count",
        "counter",
        "Number of inferences performed (rows, not counting cached ones)",
        lambda batcher: batcher.model.statistics.inferences,
    ),
    _Family(
        "nv_inference_exec_count",
        "counter",
        "Number of batches executed",
        lambda batcher: batcher.model.statistics.executions,
    ),
    _Family(
        "nv_inference_pending_request_count",
        "gauge",
        "Number of requests that wait for a worker",
        lambda batcher: batcher.queued,
    ),
    _Family(
        "nv_inference_request_duration_us",
        "counter",
        "Cumulative request duration in microseconds",
        _us("success"),
    ),
    _Family(
        "nv_inference_queue_duration_us",
        "counter",
        "Cumulative queuing duration in microseconds",
        _us("queue"),
    ),
    _Family(
        "nv_inference_compute_input_duration_us",
        "counter",
        "Cumulative duration of gathering inputs in microseconds",
        _us("gather"),
    ),
    _Family(
        "nv_inference_compute_infer_duration_us",
        "counter",
        "Cumulative duration of computing in microseconds",
        _us("compute"),
    ),
    _Family(
        "nv_inference_compute_output_duration_us",
        "counter",
        "Cumulative duration of handing out outputs in microseconds",
        _us("scatter"),
    ),
    _Family(
        "nv_cache_num_hits_per_model",
        "counter",
        "Number of requests answered from the cache",
        _if_cached(lambda statistics: statistics.cache_hit.count),
    ),
    _Family(
        "nv_cache_num_misses_per_model",
        "counter",
        "Number of requests that the cache was asked for in vain",
        _if_cached(lambda statistics: statistics.cache_miss.count),
    ),
    _Family(
        "strop_cache_shared_total",
        "counter",
        "Requests answered by an identical one in flight",
        _if_cached(lambda statistics: statistics.cache_shared),
    ),
    _Family(
        "strop_cancelled_total",
        "counter",
        "Requests that their clients took back",
        lambda batcher: batcher.model.statistics.cancelled,
    ),
    _Family(
        "strop_slo_missed_total",
        "counter",
        "Accepted requests answered after the service-level objective",
        lambda batcher: batcher.model.statistics.late,
    ),
    _Family(
        "strop_slo_seconds",
        "gauge",
        "The service-level objective on latency",
        lambda batcher: batcher.model.settings.slo,
    ),
    _Family(
        "strop_running_rows",
        "gauge",
        "Rows being computed",
        lambda batcher: batcher.running_rows,
    ),
)

_HISTOGRAMS: tuple[tuple[str, str, Callable[[ModelStatistics], Histogram]], ...] = (
    (
        "strop_request_seconds",
        "From the last byte of a request to its answer",
        lambda statistics: statistics.total_seconds,
    ),
    (
        "strop_queue_seconds",
        "From the last byte of a request to the start of its batch",
        lambda statistics: statistics.queue_seconds,
    ),
    (
        "strop_compute_seconds",
        "Computing one batch",
        lambda statistics: statistics.compute_seconds,
    ),
    ("strop_batch_rows", "Rows in one batch", lambda statistics: statistics.batch_rows),
)


def _rejections(core: Core, batchers: Iterable[Batcher]) -> Iterator[str]:
    yield from _head(
        "strop_rejections_total", "counter", "Requests without outputs, by reason and model"
    )
    for batcher in batchers:
        for reason, count in sorted(batcher.model.statistics.refused.items()):
            yield f'strop_rejections_total{{{_labels(batcher)},reason="{_quoted(reason)}"}} {count}'
    # What reached no model has no model's name: a client could otherwise make series at will.
    for reason, count in sorted(core.refused.items()):
        yield f'strop_rejections_total{{model="",version="",reason="{_quoted(reason)}"}} {count}'


def _states(core: Core) -> Iterator[str]:
    yield from _head("strop_model_ready", "gauge", "Whether a version takes requests")
    for state in core.repository.index():
        labels = f'model="{_quoted(state.name)}",version="{_quoted(state.version)}"'
        yield f"strop_model_ready{{{labels}}} {int(state.state == 'READY')}"


def _process() -> Iterator[str]:
    import psutil

    process = psutil.Process()
    with process.oneshot():
        times = process.cpu_times()
        values = (
            (
                "process_resident_memory_bytes",
                "gauge",
                "Resident memory",
                process.memory_info().rss,
            ),
            ("process_cpu_seconds_total", "counter", "CPU time", times.user + times.system),
            ("process_start_time_seconds", "gauge", "Start, since 1970", process.create_time()),
        )
    for name, kind, help_, value in values:
        yield from _head(name, kind, help_)
        yield f"{name} {_number(value)}"


def _histogram(name: str, labels: str, histogram: Histogram) -> Iterator[str]:
    total = 0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        total += count
        yield f'{name}_bucket{{{labels},le="{_number(bound)}"}} {total}'
    total += histogram.counts[-1]
    yield f'{name}_bucket{{{labels},le="+Inf"}} {total}'
    yield f"{name}_sum{{{labels}}} {_number(histogram.sum)}"
    yield f"{name}_count{{{labels}}} {total}"


def _head(name: str, kind: str, help_: str) -> tuple[str, str]:
    return f"# HELP {name} {help_}", f"# TYPE {name} {kind}"


def _labels(batcher: Batcher) -> str:
    model = batcher.model
    return f'model="{_quoted(model.name)}",version="{_quoted(model.version)}"'


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: Value) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
