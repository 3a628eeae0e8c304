"""What ExecuTorch's event tracer tells, from its file to the operators of a call."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

from strop import engines
from strop.engines.executorch_profile import Event, events, instructions, profile, times
from strop.errors import NotApplicable
from strop.records import Placement
from strop.testing import graphs

CONVOLUTION = "Convolution (NHWC, F32) IGEMM #1"
DENSE = "Fully Connected (NC, QD8, F32, QC8W) GEMM #1"

runs = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None, reason="executorch is not installed"
)


def call(scale: int) -> list[Event]:
    """A run in two instructions, the second one a delegate's, which tells its operators."""
    return [
        Event("OPERATOR_CALL", 0, "", 10 * scale),
        Event("", 1, CONVOLUTION, 7000 * scale),
        Event("", 1, DENSE, 2000 * scale),
        Event("DELEGATE_CALL", 1, "", 9500 * scale),
        Event("Method::execute", 0, "", 9900 * scale),
    ]


def test_a_delegate_that_tells_its_operators_does_not_count_besides() -> None:
    found = times(["aten::view.out", "XnnpackBackend"], [call(1), call(1)], [12e-6, 12e-6])
    kernel, convolution, dense = found.operators
    assert (kernel.name, kernel.operator) == ("0/aten::view.out", "aten::view.out")
    assert convolution.name == "1/Convolution IGEMM #1"
    assert (convolution.operator, convolution.precision) == ("Convolution", "float32")
    assert convolution.kernel == "IGEMM NHWC, F32"
    assert (dense.operator, dense.precision) == ("Fully Connected", "int8")
    assert convolution.seconds == pytest.approx(7e-6)
    assert found.outside_seconds == pytest.approx(12e-6 - 9.01e-6)


def test_a_delegate_that_tells_nothing_is_one_operator() -> None:
    silent = [event for event in call(1) if not event.inner]
    found = times(["aten::view.out", "XnnpackBackend"], [silent], [12e-6])
    assert [one.operator for one in found.operators] == ["aten::view.out", "XnnpackBackend"]
    assert found.operators[1].seconds == pytest.approx(9.5e-6)


def test_the_parts_of_a_large_batch_are_one_call() -> None:
    found = times(["a", "b"], [call(1), call(2), call(3), call(4)], [1.0, 1.0])
    convolution = found.operators[1]
    # 3 and 7 times 7 µs, of which the quartiles lie at 4 and 6.
    assert (convolution.low, convolution.high) == pytest.approx((28e-6, 42e-6))


def packed(tree: Any, prefix: bytes = b"") -> bytes:
    """A flatbuffer of nested dicts of a table's fields: text, tables, and packed numbers."""
    builder = flatbuffers.Builder(256)

    def value(given: Any) -> Any:
        if isinstance(given, str):
            return builder.CreateString(given)
        if isinstance(given, dict):
            return table(given)
        if isinstance(given, list):
            made = [table(one) for one in given]
            builder.StartVector(4, len(made), 4)
            for one in reversed(made):
                builder.PrependUOffsetTRelative(one)
            return builder.EndVector()
        return None

    def table(fields: dict[int, Any]) -> int:
        offsets = {field: value(given) for field, given in fields.items()}
        builder.StartObject(8)
        for field, given in fields.items():
            if offsets[field] is not None:
                builder.PrependUOffsetTRelativeSlot(field, offsets[field], 0)
            else:
                kind, number = given
                getattr(builder, f"Prepend{kind}Slot")(field, number, 0)
        return int(builder.EndObject())

    builder.Finish(table(tree))
    return prefix + bytes(builder.Output())


def test_events_are_read_from_the_runtimes_own_file() -> None:
    def event(name: str, begin: int, end: int, inner: str = "") -> dict[int, Any]:
        told = {0: name, 2: ("Int32", 3), 4: inner, 6: ("Uint64", begin), 7: ("Uint64", end)}
        return {0: told}

    loading = {0: "Default", 3: [event("Method::init", 5, 9)]}
    run = {
        0: "Execute",
        3: [
            event("", 2**40, 2**40 + 7000, CONVOLUTION),
            {1: {1: ("Uint64", 64)}},  # an allocation
            event("Method::execute", 2**40 - 10, 2**40 + 8000),
        ],
    }
    (found,) = events(packed({1: [loading, run]}, prefix=b"size"))
    assert found == [
        Event("", 3, CONVOLUTION, 7000),
        Event("Method::execute", 3, "", 8010),
    ]


def test_instructions_have_the_names_of_what_they_call(tmp_path: Path) -> None:
    plan = {
        0: "forward",
        5: [
            {
                2: [
                    {0: ("Uint8", 1), 1: {0: ("Int32", 1)}},
                    {0: ("Uint8", 2), 1: {0: ("Int32", 0)}},
                    {0: ("Uint8", 5), 1: {0: ("Int32", 4)}},
                ]
            }
        ],
        6: [{0: "aten::add", 1: "out"}, {0: "aten::sum", 1: ""}],
        7: [{0: "XnnpackBackend"}],
    }
    path = tmp_path / "model.pte"
    path.write_bytes(packed({1: [plan]}))
    assert instructions(path) == ["aten::sum", "XnnpackBackend", ""]


def test_a_runtime_that_traces_nothing_says_so(tmp_path: Path) -> None:
    """Faked: a runtime that was built without its event tracer."""

    class Untraced:
        def has_etdump(self) -> bool:
            return False

    with pytest.raises(NotApplicable, match="traces no events"):
        profile(lambda: None, Untraced(), tmp_path / "model.pte", 1)


@runs
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("delegate", ["xnnpack", "portable"])
def test_a_program_tells_what_it_runs(tmp_path: Path, delegate: str) -> None:
    engine = engines.get("executorch")
    case = graphs.convolutional()
    model = case.write(tmp_path / "model")
    (tmp_path / "built").mkdir()
    options = {"delegate": delegate, "batch": 4}
    artifact = engine.build(model, options, tmp_path / "built")
    seconds = {}
    for rows in (4, 10):  # the second one goes in three parts
        found = engine.profile(
            artifact, case.signature, options, Placement(threads=1), case.inputs(rows, 0), 5
        )
        kinds = {one.operator for one in found.operators}
        names = [one.name for one in found.operators]
        assert len(set(names)) == len(names)
        seconds[rows] = sum(one.seconds for one in found.operators)
        if delegate == "xnnpack":
            assert "Convolution" in kinds
        else:
            assert "aten::convolution.out" in kinds
            convolutions = [o for o in found.operators if o.operator == "aten::convolution.out"]
            assert all(one.seconds > 0 for one in convolutions)
    assert np.isfinite(list(seconds.values())).all()
    assert seconds.keys() == {4, 10} and min(seconds.values()) > 0
