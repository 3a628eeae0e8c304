"""What is benchmarked: models of examples/zoo, with the tolerance of each and the reason for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Attributes
    ----------
    within, reason
        The tolerance that strop is given, and why that one: in points of the metric.
    batches
        Batch sizes that are timed, the first being the one that strop searches at.
    metric, preprocess
        As `strop optimize` takes them; files lie in the model's folder.
    module
        ``file.py:callable`` that builds the torch module, for the eager baseline; below the
        model's folder, or absolute. None where the model was never published as a module.
    transformer
        Whether tools that treat transformers apart are told that it is one.
    """

    name: str
    within: str
    reason: str
    batches: tuple[int, ...] = (1, 8)
    metric: str | None = None
    preprocess: str | None = None
    module: str | None = None
    transformer: bool = False

    def options(self, folder: Path) -> list[str]:
        """Options of `strop optimize` beyond --data, --within and --budget."""
        given = [] if self.batches[0] == 1 else ["--batch", str(self.batches[0])]
        for option, value in (("--metric", self.metric), ("--preprocess", self.preprocess)):
            if value is not None:
                given += [option, in_folder(folder, value)]
        return [*given, "--trust"] if any(".py:" in text for text in given) else given


def in_folder(folder: Path, value: str) -> str:
    """``file.py:fn`` with the folder in front; a plain name as it is."""
    return str(folder / value) if ".py:" in value else value


ENTRIES = (
    Entry(
        "fashion-mnist",
        "1%",
        "one point of accuracy, the tolerance that users ask for most",
        module="model.py:build",
    ),
    Entry(
        "efficientnet-lite0",
        "2%",
        "top-1 agreement, which is stricter than accuracy: no labels for these crops",
        preprocess="preprocess.py:fn",
        module=f"{HERE / 'efficientnet_module.py'}:build",
    ),
    Entry(
        "minilm",
        "1%",
        "cosine similarity to the original's embedding, which is how embeddings are compared",
        batches=(1, 16),
        metric="cosine",
        module="model.py:build",
        transformer=True,
    ),
    Entry(
        "pp-ocr",
        "1%",
        "one point of character error rate, through the user metric file metric.py",
        metric="metric.py:fn",
    ),
    Entry(
        "magika",
        "2%",
        "two points of accuracy: the 850 rows that judge can prove no less unless at most 1% of "
        "answers change",
    ),
    Entry(
        "power-demand",
        "2%",
        "two points of accuracy: 420 rows judge, and at most a few of their answers may change",
        module="model.py:build",
    ),
    Entry(
        "movielens",
        "1%",
        "one point of accuracy of like or dislike; a request ranks 128 films for a user",
        batches=(128, 1024),
        metric="metric.py:fn",
        module="model.py:build",
    ),
    Entry(
        "crepe",
        "1%",
        "one point of raw pitch accuracy, the share of frames within 50 cents",
        metric="metric.py:fn",
        module="model.py:build",
    ),
)
