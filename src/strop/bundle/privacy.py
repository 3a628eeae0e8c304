"""Nothing of the builder's machine travels in a bundle: no folder names, no stack traces."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

# A path starts where a word cannot have led up to it: neither "n/a" nor "img/s" is one.
_PATH = re.compile(r"(?<![\w.~])/[^\s\"'`:;,()\[\]<>|]+")
_SOURCE_LINE = re.compile(r'^\s*File ".*$\n?', re.MULTILINE)


def scrub(value: Any) -> Any:
    """JSON values with absolute paths of this machine cut to their last part.

    What only looks like a path (``/layer1/Conv``, a node's name) stays: a path counts when it
    exists here, or lies in a home folder, the working or the temporary folder.

    Examples
    --------
    >>> scrub({"source": str(Path.cwd() / "data" / "x.npz"), "node": "/layer1/Conv"})
    {'source': 'x.npz', 'node': '/layer1/Conv'}
    """
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {_text(key): scrub(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(item) for item in value]
    return value


def is_local(path: str) -> bool:
    """Whether an absolute path says something about this machine."""
    return path.startswith(_roots()) or os.path.lexists(path)


def _text(text: str) -> str:
    if "Traceback (most recent call last)" in text:
        text = next(line for line in reversed(text.splitlines()) if line.strip())
    if "/" not in text:
        return text
    return _PATH.sub(_last_part, _SOURCE_LINE.sub("", text))


def _last_part(found: re.Match[str]) -> str:
    path = found[0]
    return Path(path).name if is_local(path) else path


def _roots() -> tuple[str, ...]:
    import tempfile

    folders = {Path.home(), Path.cwd(), Path(tempfile.gettempdir())}
    both = {str(folder) for folder in folders} | {str(folder.resolve()) for folder in folders}
    return ("/home/", "/root/", "/Users/", *(f"{folder}/" for folder in both if folder != "/"))
