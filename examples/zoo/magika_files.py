"""Magika, which tells a file's type from its bytes, and files of this machine as its data.

A file's extension is its label, where it stands for exactly one of the model's 214 types. The
population is: the packaged files found here (Python's and those under /usr), at most 60 of a type,
no two alike. So the rows, and the accuracy, differ from machine to machine.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from exporting import run
from packages import extract, wheel

HELDOUT_ROWS, PER_TYPE = 500, 60
ROOTS = (sys.prefix, sys.base_prefix, "/usr/share", "/usr/lib", "/usr/include")
# These extensions are used for more than the type that they are registered for.
AMBIGUOUS = {"cls", "crt", "d", "in", "log", "m", "pl", "rc", "t", "text", "v", "dat", "bin", "txt"}


def fetch(output: Path, cache: Path) -> str:
    magika = wheel("magika==1.0.3", cache)
    extract(magika, "magika/models/standard_v3_3/model.onnx", output / "model.onnx")
    config = json.loads(magika.read("magika/models/standard_v3_3/config.min.json"))
    rng = np.random.default_rng(0)
    rows = [
        (features, label)
        for label, paths in sorted(_candidates(_labels(magika, config)).items())
        for features in _distinct(sorted(paths), config, rng)
    ]
    order = rng.permutation(len(rows))
    tokens = np.stack([rows[i][0] for i in order])
    target = np.array([rows[i][1] for i in order], np.int64)
    np.savez(output / "data.npz", bytes=tokens[HELDOUT_ROWS:], target=target[HELDOUT_ROWS:])
    np.savez(output / "heldout.npz", bytes=tokens[:HELDOUT_ROWS], target=target[:HELDOUT_ROWS])
    (output / "LICENSE.txt").write_text(
        "Model: magika 1.0.3, Apache-2.0.\n"
        "Data: the first and last 1,024 bytes of files of this machine, under their own licences.\n"
        "Do not redistribute them.\n"
    )
    accuracy = (run(output / "model.onnx", {"bytes": tokens}).argmax(1) == target).mean()
    return f"accuracy {accuracy:.2%} on {len(rows)} files of {len(set(target))} types"


def _labels(magika: zipfile.ZipFile, config: dict) -> dict[str, int]:
    """The model's index for each extension that stands for one type only."""
    known = json.loads(magika.read("magika/config/content_types_kb.min.json"))
    owners = defaultdict(set)
    for name, info in known.items():
        for extension in info["extensions"]:
            owners[extension].add(name)
    space = {name: index for index, name in enumerate(config["target_labels_space"])}
    return {
        extension: space[name]
        for extension, (name, *others) in ((e, sorted(names)) for e, names in owners.items())
        if not others and name in space and extension not in AMBIGUOUS
    }


def _candidates(labels: dict[str, int]) -> dict[int, list[str]]:
    """Paths of regular files by label."""
    found = defaultdict(list)
    for path in _files():
        label = labels.get(path.rpartition(".")[2].lower())
        if label is not None:
            found[label].append(path)
    return found


def _files() -> Iterator[str]:
    seen = set()
    for root in ROOTS:
        for folder, _, names in os.walk(root):
            real = os.path.realpath(folder)
            if real in seen:
                continue
            seen.add(real)
            yield from (f"{folder}/{name}" for name in names if "." in name[1:])


def _distinct(paths: list[str], config: dict, rng: np.random.Generator) -> list[np.ndarray]:
    """Tokens of up to PER_TYPE files, drawn at random, no two with the same tokens."""
    kept: dict[bytes, np.ndarray] = {}
    for index in rng.permutation(len(paths)):
        if len(kept) == PER_TYPE:
            break
        path = Path(paths[index])
        if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
            continue
        tokens = _tokens(path, config)
        if tokens is not None:
            kept.setdefault(tokens.tobytes(), tokens)
    return list(kept.values())


def _tokens(path: Path, config: dict) -> np.ndarray | None:
    """int32[2048]: the stripped file's first and last 1,024 bytes, padded, as magika reads them.

    None where the file is too short for the model, which magika then does not ask.
    """
    size, block = path.stat().st_size, config["block_size"]
    with path.open("rb") as file:
        first = file.read(block).lstrip()[: config["beg_size"]]
        file.seek(max(0, size - block))
        last = file.read(block).rstrip()[-config["end_size"] :]
    if min(size, len(first)) < config["min_file_size_for_dl"]:
        return None
    tokens = np.full(config["beg_size"] + config["end_size"], config["padding_token"], np.int32)
    tokens[: len(first)] = np.frombuffer(first, np.uint8)
    tokens[len(tokens) - len(last) :] = np.frombuffer(last, np.uint8)
    return tokens
