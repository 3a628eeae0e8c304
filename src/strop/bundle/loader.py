"""Loading a bundle: its manifest and digests are checked, then its engine alone is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from strop.bundle.layout import CODE, MODEL, locate, read_manifest, verify_files
from strop.errors import BundleError, TrustError
from strop.records import Claim, Manifest, Placement, SessionSpec, Signature


class Bundle:
    """A loaded bundle: named arrays in, named arrays out. Made by :func:`load`.

    Attributes
    ----------
    path
        The bundle's folder.
    manifest
        All that is recorded of it.
    spec
        What its session was opened with.
    """

    def __init__(self, path: Path, manifest: Manifest, spec: SessionSpec) -> None:
        from strop.engines import open_session

        self.path = path
        self.manifest = manifest
        self.spec = spec
        self._session = open_session(spec)

    @property
    def signature(self) -> Signature:
        """Names, dtypes and shapes of what goes in and what comes out."""
        return self.manifest.signature

    @property
    def claim(self) -> Claim | None:
        """What is claimed of the model, on the machine that it was proven on."""
        return self.manifest.claim

    @property
    def thread_safe(self) -> bool:
        """Whether :meth:`run` may be called from several threads at once."""
        return self._session.thread_safe

    @property
    def concurrency(self) -> int:
        """How many calls gain from running at once."""
        return self._session.concurrency

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs for one batch.

        Raises
        ------
        InputError
            When names, dtypes or shapes of the arrays do not fit :attr:`signature`.
        """
        return self._session.run(arrays)

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        return self.run(arrays)

    def close(self) -> None:
        """Give memory and threads back; a closed bundle may not run."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Bundle {self.manifest.name}: {self.manifest.recipe}, {self.signature}>"


def load(
    path: str | Path, *, trust: bool = False, threads: int | None = None, check: bool = True
) -> Bundle:
    """Load the bundle in the folder `path`; of its dependencies only its engine is imported.

    Parameters
    ----------
    trust
        Whether an artefact that is code (an exported PyTorch program, a compiled library) may be
        loaded.
    threads
        Threads of one inference; None means as many as it was measured with, or as there are.
    check
        Whether the model's files are held against their recorded digests first.

    Raises
    ------
    InputError
        When there is no bundle, or its engine is not installed.
    BundleError
        When it is damaged, incomplete, changed, or of a newer schema.
    TrustError
        When the artefact is code and `trust` is False.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    spec = session_spec(folder, manifest, trust=trust, threads=threads)
    wrong = verify_files(folder, manifest, MODEL) if check else []
    if wrong:
        raise BundleError(
            f"the bundle '{folder}' is damaged: {wrong[0]}", hint="copy or build it again"
        )
    return Bundle(folder, manifest, spec)


def session_spec(
    folder: Path, manifest: Manifest, *, trust: bool, threads: int | None = None
) -> SessionSpec:
    """What opens the session of a bundle, after the form has been trusted.

    Raises
    ------
    TrustError
        When the artefact is code and `trust` is False.
    BundleError
        When the artefact is missing, or its engine does not load artefacts of its form.
    """
    from strop import engines

    deploy = manifest.recipe.deploy
    # An engine that runs Python modules would take any file for the description of one.
    engine = engines.get(deploy.engine)
    if manifest.form not in (*engine.consumes, *engine.ships):
        raise BundleError(f"the engine '{deploy.engine}' loads no artefact like '{manifest.form}'")
    options: dict[str, Any] = dict(deploy.options)
    if manifest.form in CODE:
        if not trust:
            what = CODE[manifest.form]
            raise TrustError(
                f"the bundle '{folder}' holds {what}, which may run code when loaded",
                hint="pass --trust (trust=True in Python) if you know where it comes from",
            )
        options["trust"] = True
    return SessionSpec(
        engine=deploy.engine,
        artifact=str(locate(folder, manifest.artifact)),
        signature=manifest.signature,
        options=options,
        placement=Placement(
            device=deploy.device,
            # What was tuned on many cores must not crowd a machine of few.
            threads=threads or min(deploy.threads or _granted(), _granted()),
            streams=deploy.streams,
        ),
    )


def _granted() -> int:
    from strop.measure.machine import granted_cpus

    return len(granted_cpus())
