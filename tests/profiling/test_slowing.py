from __future__ import annotations

import pytest

from strop.profiling.slowing import compare

from .made import operator, profile


def test_operators_that_share_a_node_are_compared_as_one_group() -> None:
    original = profile(
        operator("a", 100e-6, nodes=("conv", "relu")), operator("fc", 50e-6, nodes=("fc",))
    )
    quantised = profile(
        operator("a", 60e-6, nodes=("conv",), precision="int8"),
        operator("b", 90e-6, nodes=("relu", "new"), kind="Relu"),
        operator("fc", 20e-6, nodes=("fc",), precision="int8"),
        operator("q", 30e-6, nodes=("new",), kind="QuantizeLinear"),
    )
    found = compare(quantised, original)
    (slow,) = found.slowed
    assert set(slow.nodes) == {"conv", "relu"}
    assert slow.operators == ("Conv", "Relu")
    assert slow.float_seconds == pytest.approx(100e-6)
    assert slow.quantised_seconds == pytest.approx(150e-6)
    assert found.added_seconds == pytest.approx(30e-6)


def test_the_largest_loss_comes_first() -> None:
    original = profile(operator("a", 10e-6), operator("b", 10e-6))
    quantised = profile(operator("a", 40e-6), operator("b", 90e-6))
    assert [one.nodes for one in compare(quantised, original).slowed] == [("b",), ("a",)]


def test_noise_is_no_loss() -> None:
    original = profile(operator("a", 100e-6, high=300e-6), operator("b", 1e-6))
    quantised = profile(operator("a", 200e-6, low=90e-6), operator("b", 5e-6))
    assert compare(quantised, original).slowed == ()


def test_what_is_called_after_a_node_counts_for_it() -> None:
    original = profile(operator("conv", 100e-6), operator("conv_1", 100e-6))
    quantised = profile(
        operator("k1", 90e-6, nodes=("conv_quant",), kind="ConvInteger"),
        operator("k2", 60e-6, nodes=("conv/fq_output_0",), kind="Mul"),
        operator("k3", 50e-6, nodes=("conv_1_quant",), kind="ConvInteger"),
        operator("k4", 10e-6, nodes=("convolution",), kind="Cast"),
    )
    found = compare(quantised, original)
    (slow,) = found.slowed
    assert slow.nodes == ("conv",) and slow.operators == ("ConvInteger", "Mul")
    assert found.added_seconds == pytest.approx(10e-6)
