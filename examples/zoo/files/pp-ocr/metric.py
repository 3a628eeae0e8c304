"""Pass to strop as `--metric metric.py:fn`: 1 - character error rate of each line of text."""

from collections.abc import Mapping

import numpy as np

BLANK = 0  # CTC's symbol for "nothing here"


def fn(outputs: Mapping[str, np.ndarray], target: np.ndarray) -> np.ndarray:
    """Score each line: 1 when read without a fault, 0 when there are as many faults as symbols.

    The one output is float[n, steps, symbols]; target is int64[n, length], padded with -1.
    """
    (scores,) = outputs.values()
    pairs = zip(scores.argmax(2), target, strict=True)
    return np.array([_accuracy(_decode(path), wanted[wanted >= 0]) for path, wanted in pairs])


def _decode(path: np.ndarray) -> np.ndarray:
    """Best path (Graves et al., 2006): merge repeats, then drop blanks."""
    first = np.concatenate(([True], path[1:] != path[:-1]))
    return path[first & (path != BLANK)]


def _accuracy(read: np.ndarray, wanted: np.ndarray) -> float:
    distances = list(range(len(wanted) + 1))  # Levenshtein, one row at a time
    for i, symbol in enumerate(read, start=1):
        diagonal, distances[0] = distances[0], i
        for j, other in enumerate(wanted, start=1):
            cost = min(diagonal + (symbol != other), distances[j] + 1, distances[j - 1] + 1)
            diagonal, distances[j] = distances[j], cost
    return max(0.0, 1 - distances[-1] / len(wanted))
