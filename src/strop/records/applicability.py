"""Whether something applies, and the reason when it does not."""

from __future__ import annotations

from strop.records._base import Record


class Applicability(Record):
    """The answer of an engine or a technique to "can you handle this?".

    Examples
    --------
    >>> bool(Applicability.yes()), bool(Applicability.no("already quantised"))
    (True, False)
    """

    ok: bool
    reason: str = ""

    @classmethod
    def yes(cls) -> Applicability:
        return cls(ok=True)

    @classmethod
    def no(cls, reason: str) -> Applicability:
        """`reason` is shown to users: a clause without a trailing full stop."""
        return cls(ok=False, reason=reason)

    def __bool__(self) -> bool:
        return self.ok
