"""The contract of an engine: build a model into an artefact, load an artefact as a session."""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from strop.engines.operators import OperatorTimes
from strop.errors import NotApplicable
from strop.models.model import Model
from strop.records import Applicability, Placement, Signature, Space, Target

Arrays = Mapping[str, np.ndarray]


class Session(ABC):
    """A loaded artefact: named arrays in, named arrays out."""

    signature: Signature
    thread_safe: bool
    """Whether `run` may be called from several threads at once."""
    concurrency: int
    """How many calls gain from running at once."""

    @abstractmethod
    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The outputs for one batch; names, dtypes and ranks as in `signature`.

        The returned arrays belong to the caller: a later call never changes them. No call changes
        the given ones.
        """

    def close(self) -> None:
        """Give memory and threads back; a closed session may not run."""


class Engine(ABC):
    """Builds models for one runtime and loads what it built.

    `build` and `load` are separate so that a bundle runs without what built it: `build` may
    import compilers and training frameworks, `load` only the runtime.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised whenever `build` writes something else for the same model; part of the cache key."""
    consumes: ClassVar[tuple[str, ...]]
    """Forms that `build` takes, the preferred one first."""
    ships: ClassVar[tuple[str, ...]] = ()
    """Forms that only its artefacts have, where `build` compiles instead of copying."""
    packages: ClassVar[tuple[str, ...]]
    """Distributions whose versions decide what `build` writes; part of the cache key."""
    extra: ClassVar[str]
    """The extra that installs it: ``pip install 'strop[extra]'``."""
    native_artifact: ClassVar[bool] = False
    """Whether the artefact holds machine code, which ties it to an instruction set."""
    takes_quantised: ClassVar[bool] = True
    """Whether it takes what techniques have quantised to INT8 or less."""
    build_seconds: ClassVar[float] = 0.0
    """About what a build takes where that is long: short searches leave such engines out, and
    others come to them last."""
    streams: ClassVar[bool] = False
    """Whether one session serves several calls at once; its sessions are then thread-safe."""
    exact_options: ClassVar[tuple[str, ...]] = ()
    """Options that never change the numbers beyond rounding (graph level, threads …)."""
    profile_options: ClassVar[Mapping[str, Any]] = types.MappingProxyType({})
    """Options that `build` needs beside the others for an artefact whose operators have names."""

    @abstractmethod
    def available(self) -> Applicability:
        """Whether the runtime is installed; the reason holds the install line."""

    @abstractmethod
    def applies(self, model: Model, target: Target) -> Applicability:
        """Whether it can run this model on this target, or why not."""

    @abstractmethod
    def space(self, model: Model, target: Target) -> Space:
        """Options worth trying, the engine's own defaults first."""

    def is_exact(self, options: Mapping[str, Any]) -> bool:
        """Whether these options keep FP32 arithmetic, so that equivalence may be claimed."""
        defaults = set(self.exact_options)
        return all(name in defaults for name in options)

    @abstractmethod
    def build(self, model: Model, options: Mapping[str, Any], workdir: Path) -> Path:
        """Write the artefact below `workdir` (which exists and is empty); return its main file.

        Raises
        ------
        NotApplicable
            When the model cannot be built; the message is shown to users.
        """

    @abstractmethod
    def load(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
    ) -> Session:
        """The artefact as a session, importing the runtime and nothing else."""

    def profile(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
        arrays: Arrays,
        runs: int,
    ) -> OperatorTimes:
        """What each operator of a call takes, by the engine's own profiler; optional.

        Parameters
        ----------
        arrays
            One batch.
        runs
            Calls that count; a few more come first.

        Raises
        ------
        NotApplicable
            When the engine keeps no times of its operators, or cannot load the artefact.
        """
        raise NotApplicable(f"the engine '{self.name}' keeps no times of its operators")

    def with_payload(self, payload: bytes) -> Engine:
        """The engine, holding a live module that its artefacts refer to.

        Engines whose artefacts are complete, which is all but eager ones, return themselves.
        """
        return self
