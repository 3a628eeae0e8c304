"""A folder of images, one subfolder a class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from strop.data._base import Column, Reader, Rows
from strop.data.dtypes import numpy_dtype
from strop.errors import DataError, MissingExtra
from strop.records import Signature, TensorSpec

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

_LAYOUTS = {1: "L", 3: "RGB", 4: "RGBA"}


class ImageFolderReader(Reader):
    """Reads ``FOLDER/CLASS/**/image.png``; classes are numbered in the order of their names.

    With a preprocess function, it gets the array ``image``: an object array of uint8[H, W, 3]
    pictures, whatever their sizes: RGB as stored, rotation tags (EXIF) not applied. Without
    one, a model with a single input [n, C, H, W] or [n, H, W, C], C being 1, 3 or 4, takes
    pictures of just that size: as they are when its dtype is uint8, divided by 255 when it is a
    float.
    """

    name: ClassVar[str] = "images"
    stored: ClassVar[bool] = True

    def reads(self, source: str) -> bool:
        return Path(source).is_dir()

    def open(self, source: str, signature: Signature | None, *, trust: bool) -> dict[str, Column]:
        folder = Path(source)
        if not folder.is_dir():
            raise DataError(f"'{source}' is no folder", hint="give one with a subfolder a class")
        classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        files: list[Path] = []
        targets: list[int] = []
        for number, name in enumerate(classes):
            found = sorted(
                entry for entry in (folder / name).rglob("*") if entry.suffix.lower() in SUFFIXES
            )
            files += found
            targets += [number] * len(found)
        if not files:
            raise DataError(
                f"'{folder.name}' holds no images in subfolders",
                hint="put each class's images into a folder of its own",
            )
        _pillow()
        images = {"image": Pictures(files)} if signature is None else _fitted(files, signature)
        return {**images, "target": np.array(targets, np.int64)}


class Pictures:
    """A column of decoded files: object[n], each a uint8[H, W, 3] array."""

    dtype: np.dtype[Any] = np.dtype(object)

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.shape: tuple[int, ...] = (len(files),)

    def __getitem__(self, rows: Rows, /) -> np.ndarray:
        chosen = np.asarray(rows)
        result = np.empty(len(chosen), dtype=object)
        for place, row in enumerate(chosen.tolist()):
            result[place] = _decode(self.files[row], "RGB")
        return result

    def fingerprints(self, rows: Rows) -> Iterator[bytes]:
        """The sha256 of each file."""
        for row in np.asarray(rows).tolist():
            with self.files[row].open("rb") as file:
                yield hashlib.file_digest(file, "sha256").digest()


class FittedPictures(Pictures):
    """A column of decoded files in the layout and dtype of one input."""

    def __init__(self, files: Sequence[Path], spec: TensorSpec) -> None:
        super().__init__(files)
        shape = spec.shape or ()
        self._first = shape[1] in _LAYOUTS
        channels = shape[1] if self._first else shape[3]
        assert isinstance(channels, int)
        self._mode = _LAYOUTS[channels]
        self._scaled = spec.dtype != "uint8"
        self.dtype = numpy_dtype(spec.dtype)
        self._size = _decode(files[0], self._mode).shape
        self._spec = spec
        self._check(files[0], self._size)
        height, width, _ = self._size
        tail = (channels, height, width) if self._first else (height, width, channels)
        self.shape = (len(files), *tail)

    @property
    def note(self) -> str | None:
        """What was assumed, for `strop.data.check`."""
        if not self._scaled:
            return None
        return (
            f"pixels are divided by 255 for '{self._spec.name}'; if the model was trained "
            "otherwise, give --preprocess file.py:fn"
        )

    def __getitem__(self, rows: Rows, /) -> np.ndarray:
        chosen = np.asarray(rows)
        result = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        for place, row in enumerate(chosen.tolist()):
            pixels = _decode(self.files[row], self._mode)
            self._check(self.files[row], pixels.shape)
            laid = pixels.transpose(2, 0, 1) if self._first else pixels
            result[place] = laid / np.float32(255) if self._scaled else laid
        return result

    def _check(self, file: Path, size: tuple[int, ...]) -> None:
        height, width, channels = size
        tail = (channels, height, width) if self._first else size
        fits = all(
            dim == given
            for dim, given in zip((self._spec.shape or ())[1:], tail, strict=True)
            if isinstance(dim, int)
        )
        if not fits or size != self._size:
            wanted = str(self._spec) if not fits else f"the first image is {self._size[1]}×"
            wanted += "" if not fits else f"{self._size[0]}"
            raise DataError(
                f"'{file.name}' is {width}×{height} pixels but {wanted}",
                hint="resize in a function: --preprocess file.py:fn",
            )


def _fitted(files: list[Path], signature: Signature) -> dict[str, Column]:
    hint = "make the inputs in a function: --preprocess file.py:fn"
    if len(signature.inputs) != 1:
        raise DataError(f"images feed one input, and the model has {signature}", hint=hint)
    (spec,) = signature.inputs
    shape = spec.shape
    floats = spec.dtype.startswith("float") or spec.dtype == "uint8"
    if shape is None or len(shape) != 4 or not floats or not ({shape[1], shape[3]} & set(_LAYOUTS)):
        raise DataError(f"images do not fit the input {spec}", hint=hint)
    return {spec.name: FittedPictures(files, spec)}


def _decode(file: Path, mode: str) -> np.ndarray:
    image = _pillow()
    try:
        with image.open(file) as picture:
            pixels = np.asarray(picture.convert(mode))
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise DataError(f"'{file}' cannot be read: {error}", hint="replace or remove it") from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("pillow", extra="data") from None
    return Image
