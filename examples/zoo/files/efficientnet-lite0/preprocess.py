"""Pass to strop as `--preprocess preprocess.py:fn`: the images are stored as bytes."""

from collections.abc import Mapping

import numpy as np


def fn(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """uint8[n, 3, 224, 224] to the float32 that the network was trained on."""
    return {**arrays, "image": (arrays["image"].astype(np.float32) - 127) / 128}
