"""Examples: read from files lazily, checked against a model, split into roles."""

from strop.data._base import Column, Reader
from strop.data.checking import check
from strop.data.dataset import Dataset, Preprocess
from strop.data.peeking import peek
from strop.data.reading import read, reopen
from strop.data.splitting import Roles, first_groups, split

__all__ = [
    "Column",
    "Dataset",
    "Preprocess",
    "Reader",
    "Roles",
    "check",
    "first_groups",
    "peek",
    "read",
    "reopen",
    "split",
]
