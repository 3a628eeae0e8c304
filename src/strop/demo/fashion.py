"""The 10,000 test images of Fashion-MNIST, shipped with strop, and a reader for its idx files.

Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms", 2017 (arXiv:1708.07747). Licence MIT; see ``FASHION_MNIST_LICENSE.txt``.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from strop.errors import DataError

CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
"""The name of each class, at the index that stands for it in `target`."""

Split = Literal["train", "t10k"]

_HERE = Path(__file__).parent
_UNSIGNED_BYTE = 0x08


def load_test() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The 10,000 test examples that come with strop.

    Returns
    -------
    image
        float32[10000, 1, 28, 28], grey levels divided by 255, so within [0, 1].
    target
        int64[10000], the class of each image, an index into :data:`CLASSES`.

    Examples
    --------
    >>> image, target = load_test()
    >>> image.shape, image.dtype.name, CLASSES[target[0]]
    ((10000, 1, 28, 28), 'float32', 'ankle boot')
    """
    pixels, labels = load_split(_HERE, "t10k")
    return scale(pixels), labels


def write_npz(path: str | Path) -> Path:
    """Write the test examples as a strop dataset: `image` and `target` in one ``.npz`` file.

    Parameters
    ----------
    path
        Where to write; 31 MB, uncompressed so that it reads quickly. Overwritten if it exists.

    Returns
    -------
    Path
        The file written.
    """
    path = Path(path)
    image, target = load_test()
    with path.open("wb") as file:  # np.savez given a name would append .npz to other suffixes
        np.savez(file, image=image, target=target)
    return path


def load_split(folder: Path, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one split from a folder of Fashion-MNIST's four ``.gz`` files.

    Parameters
    ----------
    folder
        Holds ``SPLIT-images-idx3-ubyte.gz`` and ``SPLIT-labels-idx1-ubyte.gz``. The Debian package
        ``dataset-fashion-mnist`` puts them under ``/usr/share/datasets/fashion-mnist``.
    split
        ``train`` (60,000 images) or ``t10k`` (10,000).

    Returns
    -------
    pixels
        uint8[n, 1, 28, 28], grey levels.
    labels
        int64[n].

    Raises
    ------
    DataError
        A file is missing, damaged, or the two files differ in length.
    """
    pixels = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    if pixels.shape[1:] != (28, 28) or labels.shape != pixels.shape[:1]:
        raise DataError(
            f"the {split} files in {folder} hold images{list(pixels.shape)} and "
            f"labels{list(labels.shape)}, expected images[n, 28, 28] and labels[n]",
            hint="take both files from the same release of Fashion-MNIST",
        )
    return pixels[:, None], labels.astype(np.int64)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped idx file of unsigned bytes (format: http://yann.lecun.com/exdb/mnist).

    Parameters
    ----------
    path
        The ``.gz`` file: two zero bytes, a type code, the rank, one big-endian uint32 for each
        dimension, then the values.

    Returns
    -------
    uint8 array of the shape that the header states, writable.

    Raises
    ------
    DataError
        The file is missing, is not gzip or not an idx file of bytes, or is cut short.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read: {error}",
            hint="the Debian package dataset-fashion-mnist holds the four files",
        ) from error
    if len(raw) < 4 or raw[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path} begins with {raw[:4].hex()}, expected an idx header of bytes")
    start = 4 + 4 * raw[3]
    shape = struct.unpack(f">{raw[3]}I", raw[4:start])
    if len(raw) - start != math.prod(shape):
        raise DataError(f"{path} holds {len(raw) - start} values, its header states {list(shape)}")
    # A view of bytes is read-only, which torch.from_numpy warns about: hence the copy.
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def scale(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey levels 0-255 as the network takes them: float32 within [0, 1], same shape."""
    return pixels.astype(np.float32) / np.float32(255)
