from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from strop import diagnosis, engines
from strop.cli.app import app
from strop.diagnosis import Diagnosis, diagnose
from strop.measure import Meter, Wattage, Watts, describe
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


def test_extras_for_other_models_are_listed_with_their_install_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = diagnosis._version
    here = {"scikit-learn": "1.9", "skl2onnx": "1.20", "onnxmltools": "1.16"}
    gone = ("transformers", "keras")
    monkeypatch.setattr(
        diagnosis,
        "_version",
        lambda names: "" if names[0] in gone else here.get(names[0]) or real(names),
    )
    found = diagnose(quick=True)
    by_name = {extra.name: extra for extra in found.extras}
    assert by_name["sklearn"].packages == here and not by_name["sklearn"].remedy
    assert by_name["hf"].remedy == "no transformers; run: pip install 'strop[hf]'"
    assert by_name["keras"].remedy == "no keras; run: pip install 'strop[keras]'"
    assert not {"torch", "openvino", "all"} & by_name.keys(), "engines have lines of their own"
    assert not any("keras" in warning for warning in found.warnings), "nobody needs them all"
    shown = " ".join(CliRunner().invoke(app, ["doctor", "--quick"]).stdout.split())
    assert "extra hf no transformers; run: pip install 'strop[hf]'" in shown
    assert "skl2onnx 1.20" in shown


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


def test_how_energy_is_told_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "meter", lambda: None)
    power = diagnose(quick=True).power
    assert power is not None and power.counted is None and power.obstacle
    assert "estimated at" in CliRunner().invoke(app, ["doctor", "--quick"]).stdout


@pytest.mark.parametrize(("watts", "warned"), [(3.6, False), (30.0, True)])
def test_an_estimate_is_held_against_the_counters(
    watts: float, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Wattage("RAPL package-0", watts, 20.0, 4.0)
    monkeypatch.setattr(diagnosis, "meter", lambda: Meter(()))
    monkeypatch.setattr(diagnosis, "wattage", lambda found: seen)
    power = diagnosis._power(Watts(3.5, "a mean"), quick=False)
    assert (power.counted, power.idle, power.obstacle) == (watts, 20.0, "")
    lines = list(diagnosis._about_power(power))
    assert bool(lines) == warned
    assert not warned or "--watts-per-core 30" in lines[0]


def test_counters_that_stand_still_measure_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "meter", lambda: Meter(()))
    monkeypatch.setattr(diagnosis, "wattage", lambda found: None)
    power = diagnosis._power(Watts(3.5, "a mean"), quick=False)
    assert power.counted is None and "stand still" in power.obstacle


@pytest.mark.slow
def test_measurements_have_their_structure() -> None:
    found = diagnose()
    assert found.speeds is not None and found.noise is not None
    assert min(found.speeds.fp32, found.speeds.int8, found.speeds.bandwidth) > 0
    assert found.noise.launches == 5
    assert found.noise.detectable >= 1
