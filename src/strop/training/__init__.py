"""Budgeted, resumable training of compressed modules under a teacher.

Importing this room is cheap; torch is imported with :func:`train`, when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from strop.training.settings import TrainReport, TrainSettings

if TYPE_CHECKING:
    from strop.training.trainer import train

__all__ = ["TrainReport", "TrainSettings", "train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from strop.training.trainer import train

        return train
    raise AttributeError(name)
