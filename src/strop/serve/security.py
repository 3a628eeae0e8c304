"""Who may ask what: bearer tokens, and TLS."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import Sequence
from pathlib import Path

from strop.errors import InputError
from strop.serve.errors import ServeError


class Unauthorized(ServeError):
    """No bearer token was sent, or a wrong one."""

    status = 401
    grpc = "UNAUTHENTICATED"
    reason = "unauthorized"


class Forbidden(ServeError):
    """Nobody may do this on this server."""

    status = 403
    grpc = "PERMISSION_DENIED"
    reason = "forbidden"


class Guard:
    """Holds what a request's ``Authorization`` says against the tokens.

    Parameters
    ----------
    infer
        Tokens of clients; none at all means that anybody may infer.
    admin
        Tokens of those who may load and unload models; none at all turns these calls off. They
        may infer, too.

    Examples
    --------
    >>> guard = Guard(infer=(), admin=("secret",))
    >>> guard.check_infer(None)
    >>> guard.check_admin("Bearer secret")
    >>> guard.check_admin("Bearer guess")
    Traceback (most recent call last):
    strop.serve.security.Unauthorized: this call needs a bearer token that is not the one sent
    """

    def __init__(self, infer: Sequence[str], admin: Sequence[str]) -> None:
        self._admin = tuple(_digest(token.encode()) for token in admin)
        self._infer = tuple(_digest(token.encode()) for token in infer)
        self.infer_is_open = not infer
        self.admin_is_off = not admin

    def check_infer(self, authorization: str | bytes | None) -> None:
        """Raise :class:`Unauthorized` unless this header lets its sender infer."""
        if not self.infer_is_open:
            _check(authorization, self._infer + self._admin)

    def check_admin(self, authorization: str | bytes | None) -> None:
        """Raise :class:`Forbidden` or :class:`Unauthorized` unless it may load and unload."""
        if self.admin_is_off:
            raise Forbidden(
                "models cannot be loaded or unloaded over this server",
                hint="start it with --token-file to allow that",
            )
        _check(authorization, self._admin)


def read_tokens(path: Path | None) -> tuple[str, ...]:
    """The tokens in a file, one a line; empty lines and lines that begin with ``#`` are left out.

    Raises
    ------
    InputError
        When the file cannot be read, holds no token, or one that no header can carry.
    """
    if path is None:
        return ()
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file '{path}' cannot be read: {_why(error)}") from None
    tokens = tuple(
        line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")
    )
    if not tokens:
        raise InputError(f"the token file '{path}' holds no token", hint="put one on a line")
    for token in tokens:
        if len(token) < 8 or not token.isprintable() or " " in token:
            raise InputError(
                f"the token file '{path}' holds a token that is too short or not one word",
                hint="make one with: python -c 'import secrets; print(secrets.token_urlsafe())'",
            )
    return tokens


def tls_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What to wrap connections in; None where no certificate is given.

    Raises
    ------
    InputError
        When one of the two files is missing, unreadable or does not fit the other.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise InputError(
            "TLS needs a certificate and its key", hint="pass --tls-cert and --tls-key"
        )
    for path in (cert, key):
        if not path.is_file():
            raise InputError(f"there is no file '{path}'")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"'{cert}' and '{key}' are not a certificate and its key: {_why(error)}",
            hint="both are to be PEM files",
        ) from None
    return context


def _check(authorization: str | bytes | None, digests: tuple[bytes, ...]) -> None:
    given = authorization or b""
    if isinstance(given, str):
        given = given.encode("utf-8", "replace")
    scheme, _, token = given.partition(b" ")
    digest = _digest(token.strip())
    # Digests have one length, and every one of them is compared: the time tells nothing.
    matches = sum([hmac.compare_digest(digest, one) for one in digests])
    if not matches or scheme.lower() != b"bearer":
        raise Unauthorized(
            "this call needs a bearer token that is not the one sent"
            if token
            else "this call needs a bearer token"
        )


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
