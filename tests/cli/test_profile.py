"""A profile in the terminal."""

from __future__ import annotations

import io

from rich.console import Console

from strop.cli import profile as command
from strop.profiling import EngineProfile, MemorySample, Operator


def test_only_names_give_way_on_a_narrow_screen() -> None:
    operator = Operator(
        name="/features/features.3/conv/Conv_output_0_nchwc",
        operator="Conv",
        kernel="",
        precision="float32",
        nodes=("a",),
        seconds=23.4e-6,
        low=23e-6,
        high=24e-6,
        share=0.141,
        flops=2_650_000,
        bytes_moved=98_600,
        roofline=0.43,
        side="memory",
    )
    profile = EngineProfile(
        engine="onnxruntime",
        recipe="onnxruntime(all)",
        calls=100,
        call_seconds=1e-4,
        profiled_seconds=1.66e-4,
        operators=(operator,),
        outside_seconds=0.0,
        unmatched=0,
        quantised=False,
        memory=(MemorySample(seconds=0.0, bytes=1_000_000, phase="run"),),
        peak_memory=1_000_000,
    )
    text = io.StringIO()
    command._print_engine(Console(file=text, width=80, highlight=False), profile, 1)
    (row,) = (line for line in text.getvalue().splitlines() if line.startswith("Conv"))
    for figure in ("float32", "23.4 µs", "14.1%", "2.65 M", "98.6 kB", "43% memory"):
        assert figure in row
    assert "…" in row and len(row) <= 80
