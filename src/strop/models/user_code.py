"""Functions in the user's own files, written ``file.py:function``."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from strop.errors import InputError, TrustError

_SPEC = re.compile(r"(?P<path>.+\.py):(?P<name>[^\W\d]\w*)", re.DOTALL)


@dataclass(frozen=True)
class UserFunction:
    """A function with the file that it came from; calling it calls the function.

    Attributes
    ----------
    path
        The file; absolute.
    name
        The function's name in the file.
    sha256
        Digest of the file as it was run. Modules that it imports are not part of it.
    function
        The function itself, with whatever attributes its author gave it.
    """

    path: Path
    name: str
    sha256: str
    function: Callable[..., Any] = field(repr=False, compare=False)

    @property
    def spec(self) -> str:
        """``/absolute/file.py:function``, as :func:`load_function` takes it."""
        return f"{self.path}:{self.name}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __str__(self) -> str:
        return f"{self.path.name}:{self.name}"


def is_user_code(text: str) -> bool:
    """Whether `text` has the form ``file.py:function``.

    >>> is_user_code("score.py:f1"), is_user_code("accuracy"), is_user_code("score.py")
    (True, False, False)
    """
    return _SPEC.fullmatch(text) is not None


def load_function(spec: str, *, trust: bool) -> UserFunction:
    """The function that ``file.py:function`` names.

    The file runs once a process, as a module of its own, with its folder at the end of
    ``sys.path`` so that it can import its neighbours.

    Raises
    ------
    TrustError
        When `trust` is False: the file is code, and nobody has said that it may run.
    InputError
        When there is no such file or function, or the file raises as it is imported.
    """
    found = _SPEC.fullmatch(spec)
    if not found:
        raise InputError(
            f"'{spec}' does not name a function in a file", hint="write it as file.py:function"
        )
    path, name = Path(found["path"]).expanduser().resolve(), found["name"]
    if not path.is_file():
        raise InputError(f"there is no file '{found['path']}'", hint="check the path")
    if not trust:
        raise TrustError(
            f"'{spec}' is code, which strop runs only when told to",
            hint="read it, then pass --trust (trust=True in Python)",
        )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    module = _module(path, sha256)
    function = getattr(module, name, None)
    if not callable(function):
        known = ", ".join(sorted(_functions(module))) or "none"
        what = "is no function" if hasattr(module, name) else "is not there"
        raise InputError(f"'{name}' {what} in '{path.name}'", hint=f"functions in it: {known}")
    return UserFunction(path, name, sha256, function)


@functools.cache
def _module(path: Path, sha256: str) -> ModuleType:
    name = f"_strop_user_{path.stem}_{sha256[:12]}"
    loader = importlib.util.spec_from_file_location(name, path)
    assert loader is not None and loader.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(loader)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module  # dataclasses and pickle look their module up here
    try:
        loader.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(
            f"'{path.name}' fails to import: {type(error).__name__}: {error}",
            hint="run it with python first",
        ) from error
    return module


def _functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
