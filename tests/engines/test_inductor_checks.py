"""A library that computes something else than its module is refused when it is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from strop.engines import inductor_compile
from strop.errors import NotApplicable


class Runner:
    """Answers in the library's place."""

    answers: tuple[torch.Tensor, ...] = ()

    def __init__(self, library: Path, device: str, count: int) -> None: ...

    def run(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return list(self.answers)

    def close(self) -> None: ...


def check(answer: torch.Tensor, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(inductor_compile, "Runner", Runner)
    patch.setattr(Runner, "answers", (answer, torch.tensor([1, 2])))

    def flat(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return 2 * x, torch.tensor([1, 2])

    module: Any = flat
    inductor_compile._check(module, [torch.ones(4, 3)], Path("model.so"), "cpu")


def test_what_the_module_gives_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    check(torch.full((4, 3), 2.00001), monkeypatch)


@pytest.mark.parametrize("wrong", [3.0, float("nan")])
def test_anything_else_is_refused(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotApplicable, match="compiled something else"):
        check(torch.full((4, 3), wrong), monkeypatch)
