"""What is written down of gRPC calls: an id for each, and a line for each that is answered."""

from __future__ import annotations

import time
from typing import Any

from strop.serve.exchange import is_request_id, new_request_id
from strop.serve.grpc_calls import log_fault
from strop.serve.logs import AccessLog

_ID = "x-request-id"


class CallLog:
    """One call as the log knows it; writes nothing where requests are not logged.

    The id is the metadata ``x-request-id`` of the client, or one that is made where requests are
    logged; it goes back as trailing metadata of that name, as the HTTP front's header does.

    Attributes
    ----------
    identity
        The id, empty where there is none.
    """

    __slots__ = ("_access_log", "_began", "_context", "_target", "identity")

    def __init__(self, context: Any, target: str, access_log: AccessLog | None) -> None:
        self._context = context
        self._target = target.encode()
        self._access_log = access_log
        self._began = time.monotonic()
        self.identity = ""
        given = str(dict(context.invocation_metadata() or ()).get(_ID, ""))
        if is_request_id(given.encode("utf-8", "replace")):
            self._is_called(given)
        elif access_log is not None:
            self._is_called(new_request_id())

    def answered(
        self,
        code: str,
        request: Any = None,
        received: int = 0,
        answer: Any = None,
        began: float | None = None,
    ) -> None:
        """Note the answer to a message; of a call with one message, `began` is that of the call."""
        if self._access_log is None:
            return
        model = getattr(request, "model_name", "") or getattr(request, "name", "")
        self._access_log.call(
            self.identity,
            self._target,
            {"code": code, "model": model[:128]},
            received,
            0 if answer is None else answer.ByteSize(),
            time.monotonic() - (self._began if began is None else began),
        )

    def fault(self, error: Exception) -> None:
        """Something went wrong that nobody foresaw: its trace goes to the log, under the id."""
        if not self.identity:
            self._is_called(new_request_id())
        log_fault(error, self.identity)

    def _is_called(self, identity: str) -> None:
        self.identity = identity
        self._context.set_trailing_metadata(((_ID, identity),))
