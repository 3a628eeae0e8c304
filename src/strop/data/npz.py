"""``.npz`` files: uncompressed members are mapped into memory, compressed ones read once."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from strop.data._base import Column, Reader
from strop.errors import DataError
from strop.records import Signature

_ENCRYPTED = 1
_LOCAL_HEADER = struct.Struct("<4s22xHH")


class NpzReader(Reader):
    """Reads what `numpy.savez` and `numpy.savez_compressed` write; never unpickles."""

    name: ClassVar[str] = "npz"
    stored: ClassVar[bool] = True

    def reads(self, source: str) -> bool:
        return source.lower().endswith(".npz")

    def open(self, source: str, signature: Signature | None, *, trust: bool) -> dict[str, Column]:
        path = Path(source)
        columns: dict[str, Column] = {}
        try:
            with zipfile.ZipFile(path) as archive, path.open("rb") as file:
                for member in archive.infolist():
                    if member.filename.endswith(".npy"):
                        name = member.filename.removesuffix(".npy")
                        columns[name] = _member(path, archive, member, file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, struct.error) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"'{path.name}' cannot be read: {reason}", hint="write it with numpy.savez"
            ) from error
        if not columns:
            raise DataError(f"'{path.name}' holds no arrays", hint="write it with numpy.savez")
        return columns


def _member(
    path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: IO[bytes]
) -> np.ndarray:
    if member.flag_bits & _ENCRYPTED:
        raise DataError(f"'{path.name}' is encrypted", hint="write it with numpy.savez")
    if member.compress_type != zipfile.ZIP_STORED:
        with archive.open(member) as stream:
            dtype = _header(stream)[2]
        _refuse_objects(path, member, dtype)
        with archive.open(member) as stream:
            loaded: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
        return loaded
    # The central directory's extra field may differ in length from the local one, so the local
    # header alone says where the member's bytes begin.
    file.seek(member.header_offset)
    _, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    file.seek(name_length + extra_length, 1)
    shape, fortran, dtype = _header(file)
    _refuse_objects(path, member, dtype)
    order: Any = "F" if fortran else "C"
    start = file.tell()
    if start + dtype.itemsize * int(np.prod(shape, dtype=np.int64)) > path.stat().st_size:
        raise DataError(f"'{path.name}' is cut short: {member.filename} ends beyond the file")
    if not all(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, order)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    # Versions 2 and 3 differ only in the text encoding of field names, and 3 has no public reader.
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _refuse_objects(path: Path, member: zipfile.ZipInfo, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        name = member.filename.removesuffix(".npy")
        raise DataError(
            f"'{name}' in {path.name} holds Python objects, which only pickle can read",
            hint="save it as numbers, or text as a fixed-width array (array.astype(str))",
        )
