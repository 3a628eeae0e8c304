"""Models: what they are, where they come from, how far two of them lie apart."""

from strop.models.importer import is_model_folder, load
from strop.models.model import Model, ModuleSource, digest_of_tree
from strop.models.parity import Parity, parity, relative_error, relative_errors

__all__ = [
    "Model",
    "ModuleSource",
    "Parity",
    "digest_of_tree",
    "is_model_folder",
    "load",
    "parity",
    "relative_error",
    "relative_errors",
]
