"""What the channels of a module matter for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from strop.errors import NotApplicable
from strop.models.module_form import ModuleForm
from strop.techniques.dependency import Group, Slices
from strop.techniques.importance import unit_scores

FORM = ModuleForm(None, True, ("input",), ("output",), ("output",), "")
CHANNELS = (0, 1, 2, 3)
GROUP = Group("0", tuple((c,) for c in CHANNELS), (Slices("0.weight", 0, CHANNELS, CHANNELS),))


def taylor(module: nn.Module, labels: torch.Tensor | None) -> torch.Tensor:
    torch.manual_seed(0)
    batches = [({"input": torch.randn(6, 3)}, labels)]
    return unit_scores(module, FORM, [GROUP], "taylor", batches)["0"]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)).eval()


@pytest.mark.parametrize("unlabelled", [-1, -100])
def test_examples_without_a_label_count_by_the_decision(unlabelled: int) -> None:
    none = taylor(network(), torch.full((6,), unlabelled))
    assert torch.equal(none, taylor(network(), None))
    some = taylor(network(), torch.tensor([0, unlabelled, 1, unlabelled, 2, 3]))
    assert torch.isfinite(some).all() and not torch.equal(some, none)


class Decided(nn.Sequential):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).argmax(1)


def test_decisions_alone_do_not_tell_what_matters() -> None:
    with pytest.raises(NotApplicable, match="floating-point"):
        taylor(Decided(*network()), None)


class OneWay(torch.autograd.Function):
    """An operator of the user's own that nobody has written a derivative for."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise ValueError("nobody has written it")


class Signed(nn.Sequential):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self[2](OneWay.apply(self[0](input)))


def test_an_operator_without_a_derivative_is_a_reason() -> None:
    told = r"cannot be ranked: .*nobody has written it \(test_importance\.py:\d+\); what trains"
    with pytest.raises(NotApplicable, match=told):
        taylor(Signed(*network()), None)
