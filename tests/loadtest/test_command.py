"""`strop load-test` as a command: exit codes, JSON, tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from strop.cli.app import app
from strop.errors import InputError
from strop.loadtest import Bin, LoadTest, Percentiles, RateTrial, SloVerdict
from strop.records import Record

from .servers import Server

Serve = Callable[..., Server]
# A busy machine may take seconds to send what is due, and longer for the answers.
QUICK = ("--duration", "0.8s", "--warm-up", "0", "--timeout", "60s")


def strop(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["load-test", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_held_is_0_and_missed_is_3(serve: Serve) -> None:
    server = serve(seconds=0.01)
    code, out, err = strop(server.url, "--rate", "800", "--slo", "60s", *QUICK)
    assert code == 0 and "held" in out and "p99 ≤ 60 s" in out and "measuring" in err
    code, out, _ = strop(server.url, "--rate", "800", "--slo", "5ms", *QUICK)
    assert code == 3 and "missed" in out and "← SLO" not in out


def test_json_is_one_document(serve: Serve) -> None:
    code, out, _ = strop(serve().url, "--rate", "100", "--json", "--json-tensors", *QUICK)
    found = LoadTest.from_dict(json.loads(out))
    assert code == 0 and found.verdict is None and found.form == "json" and found.rate == 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--scenario", "rush"), "no scenario"),
        (("--arrivals", "never"), "poisson or constant"),
        (("--percentile", "100"), "--percentile 99"),
        (("--slo", "fast"), "span of time"),
        (("--token-file", "missing"), "missing"),
    ],
)
def test_bad_options(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        strop("http://127.0.0.1:1", *arguments)


PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("record", [LoadTest, Percentiles, Bin, RateTrial, SloVerdict])
def test_the_documentation_lists_exactly_the_fields_of(record: type[Record]) -> None:
    section = re.search(rf"^#+ {record.__name__}\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
    assert section is not None
    documented = re.findall(r"^\| `([^`]+)` \|", section[1], re.M)
    assert documented == [field.alias or name for name, field in record.model_fields.items()]
