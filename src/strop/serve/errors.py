"""What a request can be refused with: an HTTP status, a gRPC code, and a message safe to send."""

from __future__ import annotations

from strop.errors import StropError


class ServeError(StropError):
    """A request that gets no outputs; the message goes to clients and holds no path.

    Attributes
    ----------
    status
        HTTP status.
    grpc
        Name of the gRPC status code (``INVALID_ARGUMENT``, ``UNAVAILABLE`` …).
    retry_after
        Seconds after which the same request is likely to be accepted; None where trying again
        does not help.
    reason
        One word for metrics and logs: what kind of refusal this is.

    Examples
    --------
    >>> error = Overloaded("the queue is full", retry_after=0.25)
    >>> error.status, error.grpc, error.retry_after, str(error)
    (503, 'UNAVAILABLE', 0.25, 'the queue is full')
    """

    status: int = 500
    grpc: str = "INTERNAL"
    reason: str = "internal"

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class BadRequest(ServeError):
    """The request does not fit the model, whatever the state of the server."""

    status = 400
    grpc = "INVALID_ARGUMENT"
    reason = "invalid"


class UnknownModel(ServeError):
    """No model or version of that name is served."""

    status = 404
    grpc = "NOT_FOUND"
    reason = "unknown"


class NotFound(ServeError):
    """Nothing is at this path."""

    status = 404
    grpc = "NOT_FOUND"
    reason = "unknown"


class NotOffered(ServeError):
    """A part of Triton's protocol that this server has not."""

    status = 501
    grpc = "UNIMPLEMENTED"
    reason = "not_offered"


class MethodNotAllowed(ServeError):
    """The path is right, the method is not.

    Attributes
    ----------
    allowed
        The methods that are, as the header ``Allow`` lists them.
    """

    status = 405
    grpc = "UNIMPLEMENTED"
    reason = "invalid"

    def __init__(self, allowed: frozenset[bytes]) -> None:
        self.allowed = b", ".join(sorted(allowed))
        super().__init__(f"this path takes {self.allowed.decode()}")


class TooLarge(ServeError):
    """The request is larger than this server takes."""

    status = 413
    grpc = "RESOURCE_EXHAUSTED"
    reason = "too_large"


class Overloaded(ServeError):
    """The request would miss its deadline or overflow a queue: refused before any work."""

    status = 503
    grpc = "UNAVAILABLE"
    reason = "overload"


class Unavailable(ServeError):
    """The model is known and not ready: loading, unloading, replaced or draining."""

    status = 503
    grpc = "UNAVAILABLE"
    reason = "unavailable"


class DeadlineExceeded(ServeError):
    """The client's own timeout passed before the answer was there."""

    status = 408
    grpc = "DEADLINE_EXCEEDED"
    reason = "timeout"


class Cancelled(ServeError):
    """The client went away or took the request back (499 is nginx's status for it)."""

    status = 499
    grpc = "CANCELLED"
    reason = "cancelled"


class ModelFailed(ServeError):
    """The model raised on this very request, alone."""

    status = 500
    grpc = "INTERNAL"
    reason = "model"


class ModelHung(ServeError):
    """The batch that held this request ran beyond the limit and was given up."""

    status = 500
    grpc = "INTERNAL"
    reason = "hang"


def too_busy(model: str, retry_after: float) -> Overloaded:
    """What is said to a request that could not be answered in time."""
    return Overloaded(f"'{model}' is too busy to answer in time", retry_after=retry_after)
