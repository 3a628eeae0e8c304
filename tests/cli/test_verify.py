from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from strop.bundle import Check, Verification
from strop.cli import verify as command
from strop.cli.app import app


def _verification(*statuses: Any) -> Verification:
    checks = [Check(name=f"check {n}", status=it, detail="") for n, it in enumerate(statuses)]
    return Verification(bundle="b", claim=None, verdict="unproven", checks=tuple(checks))


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (("ok", "ok"), 0),
        (("ok", "unproven"), 3),
        (("unproven", "failed"), 1),
        (("failed", "ok"), 1),
    ],
)
def test_the_worst_check_decides_the_exit_code(statuses: tuple[str, ...], code: int) -> None:
    assert command.exit_code(_verification(*statuses)) == code


def test_an_untouched_bundle_has_no_failed_check(bundle: Path) -> None:
    done = CliRunner().invoke(app, ["verify", str(bundle), "--json"])
    found = Verification.from_json(done.stdout)
    by_name = {check.name: check.status for check in found.checks}
    assert by_name["files"] == "ok"
    assert by_name["sample"] == "ok"
    assert "failed" not in by_name.values()
    assert done.exit_code == command.exit_code(found)


def test_a_changed_file_is_found(bundle: Path) -> None:
    artifact = bundle / "model" / "model.onnx"
    artifact.write_bytes(artifact.read_bytes() + b"\0")
    # The folder that `strop optimize` was told to make does as well.
    done = CliRunner().invoke(app, ["verify", str(bundle.parent)])
    assert done.exit_code == 1
    assert "failed" in done.stdout
    assert "model/model.onnx" in done.stdout
