"""Reading a flatbuffer by the numbers of its fields, as a schema orders them."""

from __future__ import annotations

import struct


class Table:
    """One table of a buffer.

    Parameters
    ----------
    place
        Where in `content` it begins.
    """

    def __init__(self, content: bytes, place: int) -> None:
        self._content = content
        self._place = place

    @classmethod
    def root(cls, content: bytes, prefix: int = 0) -> Table:
        """The outermost table; `prefix` bytes come before the buffer."""
        return cls(content, prefix + struct.unpack_from("<I", content, prefix)[0])

    def number(self, field: int, code: str, default: int) -> int:
        """A scalar in the struct module's `code`."""
        place = self._field(field)
        found: int = (
            default if place is None else struct.unpack_from(f"<{code}", self._content, place)[0]
        )
        return found

    def text(self, field: int) -> str:
        """A string; empty where there is none."""
        place = self._field(field)
        if place is None:
            return ""
        start, length = self._vector(place)
        return self._content[start : start + length].decode("utf-8", errors="replace")

    def table(self, field: int) -> Table | None:
        """The table that a field, or the value of a union, holds."""
        place = self._field(field)
        return None if place is None else Table(self._content, self._target(place))

    def tables(self, field: int) -> list[Table]:
        """The tables of a vector; none where the field is not there."""
        place = self._field(field)
        if place is None:
            return []
        start, length = self._vector(place)
        return [Table(self._content, self._target(start + 4 * index)) for index in range(length)]

    def _field(self, field: int) -> int | None:
        """Where a field's value lies, by the table of offsets that the table names."""
        (back,) = struct.unpack_from("<i", self._content, self._place)
        offsets = self._place - back
        (size,) = struct.unpack_from("<H", self._content, offsets)
        at = 4 + 2 * field
        if at >= size:
            return None
        (offset,) = struct.unpack_from("<H", self._content, offsets + at)
        return self._place + offset if offset else None

    def _target(self, place: int) -> int:
        target: int = place + struct.unpack_from("<I", self._content, place)[0]
        return target

    def _vector(self, place: int) -> tuple[int, int]:
        start = self._target(place)
        return start + 4, struct.unpack_from("<I", self._content, start)[0]
