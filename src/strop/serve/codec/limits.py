"""What a client may ask of the server before it is refused."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from strop.serve.errors import BadRequest, TooLarge

MiB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one request and on all of them together; sizes in bytes, times in seconds.

    Attributes
    ----------
    head
        Request line and headers.
    body
        A body as it was sent, and also once decompressed.
    json
        JSON in a body, and in an answer. Other requests wait while it is read, for 4 to 15 ms a
        MiB: the parser holds the interpreter's lock, so that a thread of its own would not help
        them. It takes up to some 20 times its size in memory.
    elements
        Elements of one tensor.
    strings
        Elements of one tensor of strings: each is an object, half a microsecond of the event loop.
    rank, tensors
        Dimensions of a tensor, tensors of a request.
    in_flight
        Bodies of all requests that are being received or answered.
    connections
        Open connections.
    pipelined
        Requests of one connection that wait for their answers before more are read.
    header_seconds
        From the first byte of a request to the end of its headers.
    body_seconds
        From the first byte to the end of the body, which gets more the longer it is: see
        `slowest`.
    slowest
        Bytes a second that a body must make on average beyond `body_seconds`, and at which an
        answer must be read beyond `write_seconds`.
    idle_seconds
        Silence on a connection on which nothing is asked.
    write_seconds
        How long a client may leave an answer unread.
    """

    head: int = 32 << 10
    body: int = 256 * MiB
    json: int = 8 * MiB
    elements: int = 1 << 28
    strings: int = 1 << 18
    rank: int = 32
    tensors: int = 256
    in_flight: int = 1024 * MiB
    connections: int = 4096
    pipelined: int = 64
    header_seconds: float = 10.0
    body_seconds: float = 20.0
    slowest: int = 64 << 10
    idle_seconds: float = 120.0
    write_seconds: float = 30.0


def element_count(shape: object, name: str, limits: Limits, datatype: str = "") -> int:
    """How many elements a shape from the wire has, for a tensor of this datatype.

    Raises
    ------
    ServeError
        When it is not a list of natural numbers, or its product is out of bounds.

    Examples
    --------
    >>> element_count([2, 3], "x", Limits())
    6
    """
    if type(shape) is not list or len(shape) > limits.rank:
        raise BadRequest(
            f"input '{name[:80]}': its shape is not a list of at most {limits.rank} numbers"
        )
    most, what = limits.elements, "elements"
    if datatype == "BYTES":
        most, what = limits.strings, "strings"
    count = size = 1
    for dim in shape:
        if type(dim) is not int or dim < 0:
            raise BadRequest(
                f"input '{name[:80]}': its shape has a dimension that is not a natural number"
            )
        count *= dim
        size *= dim or 1  # no array has more than it can index, not even an empty one
        # Within the loop: the product of many large numbers is itself work without a bound.
        if size > most:
            raise TooLarge(f"input '{name[:80]}': its shape has more than {most} {what}")
    return count


def decompress(data: bytes | memoryview, coding: bytes, limits: Limits) -> bytes:
    """A body that was sent with ``Content-Encoding: gzip`` or ``deflate``, never beyond the limit.

    Raises
    ------
    ServeError
        When the coding is another one, the data are damaged, or their content is too large.

    Examples
    --------
    >>> decompress(zlib.compress(b"text"), b"deflate", Limits())
    b'text'
    """
    coding = coding.strip().lower()
    if coding in (b"gzip", b"x-gzip"):
        windows = [31]
    elif coding == b"deflate":
        windows = [15, -15]  # the standard says zlib's frame, old clients leave it out
    else:
        raise BadRequest("Content-Encoding may be gzip or deflate")
    for bits in windows:
        inflater = zlib.decompressobj(bits)
        try:
            content = inflater.decompress(data, limits.body + 1)
        except zlib.error:
            continue
        if len(content) > limits.body:
            raise TooLarge(f"the body has more than {limits.body} bytes once decompressed")
        if not inflater.eof or inflater.unused_data:
            break
        return content
    raise BadRequest(f"the body is not valid {coding.decode()} data")
