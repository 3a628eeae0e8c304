"""One HTTP request and the answer to it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from strop.serve.errors import ServeError

if TYPE_CHECKING:
    from strop.serve.outgoing import Outgoing
    from strop.serve.routes import Match
    from strop.serve.ticket import Submit

JSON = b"application/json"
BINARY = b"application/octet-stream"

_COPIED = 32 << 10  # up to here one buffer is cheaper to write than several
_LONGEST_ID = 128


class RequestTimeout(ServeError):
    """The request did not arrive in time."""

    status = 408
    grpc = "DEADLINE_EXCEEDED"
    reason = "slow"


class Malformed(ServeError):
    """What was sent is not HTTP, or HTTP of a kind that is not offered."""

    grpc = "INVALID_ARGUMENT"
    reason = "malformed"

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Ticket(Protocol):
    """What can be taken back."""

    def cancel(self) -> None:
        """Forget the request: its answer will not be read."""


class Heads:
    r"""The first lines of answers, made once a second for the sake of the date.

    Examples
    --------
    >>> Heads().start(200, JSON).startswith(b"HTTP/1.1 200 OK\r\n")
    True
    """

    def __init__(self) -> None:
        self._made: dict[tuple[int, bytes], bytes] = {}
        self._date = b""
        self.ok = self.busy = b""
        self.refresh()

    def refresh(self) -> None:
        """Bring the date up to date."""
        self._date = formatdate(usegmt=True).encode()
        self._made.clear()
        self.ok = self.start(200, JSON)
        self.busy = self.start(503, JSON)

    def start(self, status: int, content_type: bytes) -> bytes:
        """All lines up to the number of ``Content-Length``."""
        made = self._made.get((status, content_type))
        if made is None:
            made = b"HTTP/1.1 %d %b\r\nServer: strop\r\nDate: %b\r\n" % (
                status,
                _phrase(status),
                self._date,
            ) + (b"Content-Type: %b\r\nContent-Length: " % content_type)
            self._made[status, content_type] = made
        return made


class Exchange:
    """A request that was read, and the slot for its answer.

    Answers of one connection go out in the order of the requests, whatever order they are made
    in; :class:`strop.serve.outgoing.Outgoing` sees to that.

    Attributes
    ----------
    headers
        Those that matter here, by lower-case name.
    body
        All of it, as it was sent.
    arrived
        `time.monotonic()` when it was read to its end; its head, until then.
    plain
        Whether the answer needs no header beyond those that every answer has.
    ticket
        What to cancel when the client goes away.
    output
        The answer once it is there: its bytes, or several buffers of them.
    held
        Bytes of the body, counted against those in flight.
    submit
        Who has taken the request already, where somebody has.
    """

    # Defaults of the class: most requests have most of them, and need not set them one by one.
    body: bytes | memoryview = b""
    arrived = 0.0
    keep_alive = True
    plain = False
    length: int | None = None
    match: Match | None = None
    refusal: ServeError | None = None
    ticket: Ticket | None = None
    output: bytes | Sequence[bytes | memoryview] | None = None
    held = 0
    wants_continue = False
    request_id = ""
    submit: Submit | None = None

    def __init__(
        self, connection: Outgoing, method: bytes, target: bytes, headers: dict[bytes, bytes]
    ) -> None:
        self.connection = connection
        self.method = method
        self.target = target
        self.headers = headers

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more, or it was given."""
        return self.connection.closed or self.output is not None

    def answer_ok(self, text: bytes) -> None:
        """Status 200 with a JSON body: the short way for what is asked most."""
        front = self.connection.front
        if self.plain and self.keep_alive and not front.draining:
            if self.output is None:
                self.output = b"%b%d\r\n\r\n%b" % (front.heads.ok, len(text), text)
                self.connection.answered(self)
        else:
            self.answer(200, [text])

    def answer(
        self,
        status: int,
        parts: Sequence[bytes | memoryview],
        *,
        content_type: bytes = JSON,
        extra: bytes = b"",
    ) -> None:
        """Send these parts as the body; `extra` are more header lines, each with its end."""
        if self.output is not None:
            return
        front = self.connection.front
        size = sum(map(len, parts))
        if front.draining and self.connection.is_last(self):
            self.keep_alive = False  # not earlier: what was asked behind this was taken, too
        if not self.keep_alive:
            extra += b"Connection: close\r\n"
        elif self.headers.get(b":version") == b"1.0":
            extra += b"Connection: keep-alive\r\n"
        if self.request_id:
            extra += b"X-Request-Id: %b\r\n" % self.request_id.encode()
        head = b"%b%d\r\n%b\r\n" % (front.heads.start(status, content_type), size, extra)
        if self.method == b"HEAD":
            self.output = head
        elif size <= _COPIED:
            self.output = b"".join((head, *parts))
        else:
            self.output = (head, *parts)
        if front.access_log is not None:
            front.access_log.request(self, status, size)
        self.connection.answered(self)

    def answer_json(self, document: Any, *, status: int = 200) -> None:
        """Send a document as JSON."""
        self.answer(status, [orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)])

    def fail(self, error: ServeError) -> None:
        """Send an error: its status, and ``{"error": message}``."""
        extra = b""
        if error.retry_after is not None:
            # The header knows whole seconds alone; the parameter beside it is for clients that
            # can do better.
            extra += b"Retry-After: %d\r\nRetry-After-Ms: %d\r\n" % (
                max(1, -int(-error.retry_after // 1)),
                max(1, -int(-error.retry_after * 1000 // 1)),
            )
        if error.status == 401:
            extra += b'WWW-Authenticate: Bearer realm="strop"\r\n'
        if (allowed := getattr(error, "allowed", None)) is not None:
            extra += b"Allow: %b\r\n" % allowed
        self.answer(error.status, [orjson.dumps({"error": str(error)})], extra=extra)

    def dispatch(self) -> None:
        """Have it answered, whatever comes of it."""
        try:
            if self.refusal is not None:
                self.fail(self.refusal)
            elif self.match is not None:
                self.connection.front.router.dispatch(self, self.match)
        except ServeError as error:
            self.fail(error)
        except Exception as error:
            self.fail_unexpectedly(error)

    def fail_unexpectedly(self, error: BaseException) -> None:
        """Send status 500 without a word of why; the log has it, under the same request id."""
        if not self.request_id:
            self.request_id = new_request_id()
        self.connection.front.log.fault(error, request=self.request_id)
        self.fail(ServeError("the server failed on this request; its log says why"))

    def identify(self) -> None:
        """Take the request id that the client sent, or make one where requests are logged."""
        given = self.headers.get(b"x-request-id", b"")
        if is_request_id(given):
            self.request_id = given.decode()
        elif self.connection.front.access_log is not None:
            self.request_id = new_request_id()

    def seconds(self) -> float:
        """Since it was read."""
        return time.monotonic() - self.arrived


def is_request_id(given: bytes) -> bool:
    """Whether what a client sent may be taken for the id of its request: one printable word."""
    return 0 < len(given) <= _LONGEST_ID and all(0x21 <= byte < 0x7F for byte in given)


def new_request_id() -> str:
    """16 hexadecimal digits."""
    return secrets.token_hex(8)


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Client Closed Request" if status == 499 else b"Error"
