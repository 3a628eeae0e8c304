"""The base of every record: frozen, strict, schema-versioned plain data."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from strop.errors import StropError


class Record(BaseModel):
    """Frozen plain data that reads and writes canonical JSON.

    Unknown keys are refused, so that a record written by a newer strop is never half understood.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        allow_inf_nan=True,
    )

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-ready values, keys as they are written to disk.

        JSON has no infinities and no NaN: they are written as the strings ``Infinity``,
        ``-Infinity`` and ``NaN``, which reading turns back into floats.
        """
        values: dict[str, Any] = _strict(self.model_dump(mode="json", by_alias=True))
        return values

    def to_json(self, *, indent: int | None = None) -> str:
        """The record as JSON text; without `indent` it is canonical (sorted keys, no spaces)."""
        values = self.to_dict()
        if indent is not None:
            return json.dumps(values, indent=indent, ensure_ascii=False)
        return canonical_json(values)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The record that `values` describe.

        Raises
        ------
        StropError
            When a key is missing, unknown, or of the wrong type.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise StropError(
                f"not a valid {cls.__name__} record: {where}: {first['msg']}",
                hint="it may come from another version of strop",
            ) from error

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The record that a JSON text describes (see :meth:`from_dict`)."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise StropError(f"not a valid {cls.__name__} record: {error}") from error
        return cls.from_dict(values)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in the JSON file at `path`."""
        return cls.from_json(path.read_bytes())

    @property
    def digest(self) -> str:
        """The sha256 of the canonical JSON, as 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def canonical_json(values: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text.

    Examples
    --------
    >>> canonical_json({"b": 1, "a": [1.0, None]})
    '{"a":[1.0,null],"b":1}'
    """
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return value
