"""Bundles of versions that told neither energy nor cost: they load, verify and report."""

from __future__ import annotations

import json
from pathlib import Path

from strop.bundle import load, read_manifest, verify
from strop.bundle import write as write_bundle

NEW = ("energy", "savings", "cost")


def test_a_bundle_without_energy_and_cost_is_whole(make, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    write_bundle(path, make())
    manifest = json.loads((path / "manifest.json").read_text())
    for name in NEW:
        del manifest["evidence"][name]
    (path / "manifest.json").write_text(json.dumps(manifest))
    found = read_manifest(path)
    assert found.evidence.energy is None and found.evidence.cost is None
    with load(path) as session:
        assert session.claim is not None
    verified = verify(path)
    statuses = {check.name: check.status for check in verified.checks}
    assert statuses["files"] == statuses["load"] == statuses["figures"] == "ok"
