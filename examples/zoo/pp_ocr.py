"""PP-OCRv4's text recogniser (CTC, 6,625 symbols), and lines of text rendered with known labels.

The population is: a fragment of Australian news or a number, set in one of nine DejaVu fonts, in
some contrast, blurred and noisy to some degree. Every row is an independent draw.
"""

from __future__ import annotations

import importlib.util
import io
import re
from pathlib import Path

import numpy as np
import onnx
from exporting import run
from packages import extract, wheel
from PIL import Image, ImageDraw, ImageFilter, ImageFont

DATA_ROWS, HELDOUT_ROWS, HEIGHT, WIDTH = 1_000, 300, 48, 320
NUMBERS = ("{:.2f}", "${:,.0f}", "+{:.0f}", "{:.1f}%", "No. {:.0f}")


def fetch(output: Path, cache: Path) -> str:
    recogniser = wheel("rapidocr-onnxruntime==1.4.4", cache)
    member = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
    model = extract(recogniser, member, output / "model.onnx")
    news = wheel("gensim==4.4.0", cache).read("gensim/test/test_data/lee_background.cor")
    words = news.decode("utf-8").split()
    fonts = wheel("matplotlib==3.11.2", cache)
    files = [n for n in fonts.namelist() if re.search(r"/DejaVu(Sans|SansMono|Serif)\b.*ttf", n)]
    faces = [fonts.read(name) for name in sorted(files) if "Display" not in name]

    rng, codes = np.random.default_rng(0), _codes(model)
    for file, rows in (("data", DATA_ROWS), ("heldout", HELDOUT_ROWS)):
        lines = [_line(words, faces, codes, rng) for _ in range(rows)]
        target = np.full((rows, max(len(text) for text, _ in lines)), -1, np.int64)
        for row, (text, _) in zip(target, lines, strict=True):
            row[: len(text)] = [codes[symbol] for symbol in text]
        x = np.stack([image for _, image in lines])
        np.savez(output / f"{file}.npz", x=x, target=target)
    (output / "LICENSE.txt").write_text(
        "Model: PP-OCRv4 as packaged by rapidocr-onnxruntime 1.4.4, Apache-2.0.\n"
        "Text: Lee's news corpus from gensim 4.4.0, LGPL-2.1. Fonts: DejaVu from matplotlib.\n"
    )
    return f"1 - CER {_score(run(model, {'x': x}), target):.2%} on {rows} held-out lines"


def _codes(model: Path) -> dict[str, int]:
    """Symbol to index: 0 is CTC's blank, then the model's own list, then the space."""
    (listed,) = (p.value for p in onnx.load(model).metadata_props if p.key == "character")
    symbols = [*listed.splitlines(), " "]
    return {symbol: index for index, symbol in enumerate(symbols, start=1)}


def _line(
    words: list[str], faces: list[bytes], codes: dict[str, int], rng: np.random.Generator
) -> tuple[str, np.ndarray]:
    """A text that the model has the symbols for, and its picture."""
    size = int(rng.integers(24, 35))
    font = ImageFont.truetype(io.BytesIO(faces[rng.integers(len(faces))]), size)
    while True:
        at, count = int(rng.integers(len(words) - 4)), int(rng.integers(1, 5))
        text = " ".join(words[at : at + count])
        if rng.random() < 0.2:
            text = NUMBERS[rng.integers(len(NUMBERS))].format(10 ** rng.uniform(0, 6))
        if set(text) <= set(codes) and font.getlength(text) <= WIDTH - 16:
            return text, _picture(text, font, rng)


def _picture(text: str, font: ImageFont.FreeTypeFont, rng: np.random.Generator) -> np.ndarray:
    """float32[3, HEIGHT, WIDTH] within [-1, 1], padded with 0 on the right."""
    width = int(font.getlength(text)) + 16
    paper, ink = int(rng.integers(170, 256)), int(rng.integers(0, 90))
    image = Image.new("L", (width, HEIGHT), paper)
    ImageDraw.Draw(image).text((8, HEIGHT // 2), text, fill=ink, font=font, anchor="lm")
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.8))))
    noisy = np.asarray(image) + rng.normal(0, rng.uniform(0, 20), (HEIGHT, width))
    padded = np.zeros((3, HEIGHT, WIDTH), np.float32)
    padded[:, :, :width] = np.clip(noisy, 0, 255) / 127.5 - 1
    return padded


def _score(output: np.ndarray, target: np.ndarray) -> float:
    """Mean of the metric that the folder gets as `metric.py`."""
    path = Path(__file__).parent / "files" / "pp-ocr" / "metric.py"
    spec = importlib.util.spec_from_file_location("metric", path)
    metric = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(metric)
    return float(metric.fn({"output": output}, target).mean())
