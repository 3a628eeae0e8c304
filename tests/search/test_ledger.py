from __future__ import annotations

from pathlib import Path

import pytest

from strop.errors import StropError
from strop.search.ledger import Ledger


def test_each_new_plan_on_a_set_is_another_run(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.open_set("set", "plan a") == 1
    assert ledger.open_set("set", "plan b") == 2
    assert ledger.open_set("other", "plan b") == 1
    assert Ledger(tmp_path / "ledger.jsonl").open_set("set", "plan c") == 3


def test_the_same_plan_again_spends_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.open_set("set", "plan a")
    ledger.open_set("set", "plan b")
    assert ledger.open_set("set", "plan a") == 1


def test_a_ledger_that_cannot_be_written_stops_the_proof(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StropError, match="ledger"):
        Ledger(tmp_path / "file" / "ledger.jsonl").open_set("set", "plan")
