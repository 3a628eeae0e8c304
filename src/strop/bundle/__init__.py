"""The deliverable: a folder with a model, what is claimed of it, and the evidence for it.

Importing this package, and loading a bundle, import numpy, pydantic and the bundle's engine; no
training framework and no compiler.
"""

from strop.bundle.contents import Contents
from strop.bundle.figure import Figure
from strop.bundle.layout import read_manifest
from strop.bundle.loader import Bundle, load
from strop.bundle.recompute import recompute
from strop.bundle.verification import Check, Verification
from strop.bundle.verifier import verify
from strop.bundle.writer import write

__all__ = [
    "Bundle",
    "Check",
    "Contents",
    "Figure",
    "Verification",
    "load",
    "read_manifest",
    "recompute",
    "verify",
    "write",
]
