from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from strop import diagnosis, engines
from strop.cli.app import app
from strop.diagnosis import Diagnosis, diagnose
from strop.measure import describe
from strop.records import Applicability


def test_quick_finds_what_is_installed_and_measures_nothing() -> None:
    found = diagnose(quick=True)
    assert [engine.name for engine in found.engines] == list(engines.names())
    assert found.speeds is None and found.noise is None
    by_name = {engine.name: engine for engine in found.engines}
    assert by_name["onnxruntime"].available and by_name["onnxruntime"].version
    assert 1 <= found.cores.granted <= found.cores.affinity <= found.cores.online
    assert found.machine == describe()
    assert found.cache_writable
    assert found.telemetry in ("blocked", "not installed")


def test_a_missing_engine_shows_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "the package 'openvino' is not installed; run: pip install 'strop[openvino]'"
    engine = type(engines.get("openvino"))
    monkeypatch.setattr(engine, "available", lambda self: Applicability.no(line))
    found = diagnose(quick=True)
    missing = next(it for it in found.engines if it.name == "openvino")
    assert not missing.available and missing.remedy == line
    assert any("pip install" in warning for warning in found.warnings)


def test_a_processor_without_dot_products_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = describe().model_copy(update={"isa": ("avx2",), "architecture": "x86_64"})
    monkeypatch.setattr(diagnosis, "describe", lambda: plain)
    assert any("no 8-bit dot product" in text for text in diagnose(quick=True).warnings)
    able = plain.model_copy(update={"isa": ("avx2", "avx512_vnni")})
    monkeypatch.setattr(diagnosis, "describe", lambda: able)
    assert not any("dot product" in text for text in diagnose(quick=True).warnings)


def test_a_quota_below_the_affinity_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "cpu_quota", lambda: 1.5)
    monkeypatch.setattr(diagnosis, "_affinity", lambda: 8)
    assert any("grants 1.5 CPUs" in text for text in diagnose(quick=True).warnings)


def test_a_cache_that_cannot_be_written_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STROP_CACHE", str(tmp_path / "file"))
    found = diagnose(quick=True)
    assert not found.cache_writable
    assert any("STROP_CACHE" in text for text in found.warnings)


def test_json_reads_back() -> None:
    done = CliRunner().invoke(app, ["doctor", "--quick", "--json"])
    assert done.exit_code == 0
    assert Diagnosis.from_json(done.stdout).machine == describe()


def test_people_see_cores_engines_and_the_cache() -> None:
    done = CliRunner().invoke(app, ["doctor", "--quick"])
    assert done.exit_code == 0
    for words in ("processor", "granted", "engine onnxruntime", "cache", "telemetry"):
        assert words in done.stdout


@pytest.mark.slow
def test_measurements_have_their_structure() -> None:
    found = diagnose()
    assert found.speeds is not None and found.noise is not None
    assert min(found.speeds.fp32, found.speeds.int8, found.speeds.bandwidth) > 0
    assert found.noise.launches == 5
    assert found.noise.detectable >= 1
