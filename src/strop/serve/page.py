"""The page for people at ``/``, and the figures that it asks for once a second."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path


@functools.cache
def page() -> tuple[bytes, bytes]:
    """The page, and its Content-Security-Policy: it may load nothing, and run only its own script.

    Examples
    --------
    >>> text, policy = page()
    >>> policy.startswith(b"default-src 'none'")
    True
    """
    text = (Path(__file__).parent / "page.html").read_bytes()
    script, style = (_digest(text, tag) for tag in (b"script", b"style"))
    # Bars get their widths through the style of an element, which needs no word here: setting a
    # property by script is not an inline style.
    policy = (
        b"default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'; script-src %b; style-src %b" % (script, style)
    )
    return text, policy


def _digest(text: bytes, tag: bytes) -> bytes:
    found = re.search(rb"<%b>(.*?)</%b>" % (tag, tag), text, re.DOTALL)
    assert found, f"the page has no <{tag.decode()}>"
    return b"'sha256-%b'" % base64.b64encode(hashlib.sha256(found[1]).digest())
