"""Code that a bundle carries: recorded preprocessing and metrics of the user's."""

from __future__ import annotations

from pathlib import Path

from strop.bundle.layout import locate
from strop.errors import TrustError


def unpack_code(bundle: Path, spec: str, scratch: Path, *, trust: bool) -> str:
    """``file.py:fn`` of code in the bundle, copied to where no stale bytecode lies beside it.

    Raises
    ------
    TrustError
        When `trust` is False: it is code.
    """
    if not trust:
        raise TrustError(
            f"the bundle's {spec} is code, which strop runs only when told to",
            hint="read it, then pass --trust (trust=True in Python)",
        )
    name, _, function = spec.rpartition(":")
    path = scratch / Path(name).name
    path.write_bytes(locate(bundle, name).read_bytes())
    return f"{path}:{function}"
