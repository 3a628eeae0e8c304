"""The shipped conformance suite on the techniques that need no training."""

from __future__ import annotations

from pathlib import Path

import pytest

from strop.models import Model, graph
from strop.testing import graphs, targets
from strop.testing.techniques import TechniqueConformance

from . import small_graphs as small


class TestCleanup(TechniqueConformance):
    technique = "cleanup"

    def write_unsuitable(self, folder: Path) -> Model:
        """It looks at any graph of standard operators; one of another domain stays as it is."""
        proto = small.proto_of(graphs.no_weights().write(folder.with_name("standard")))
        proto.graph.node[0].domain = "somebody.else"
        opset = proto.opset_import.add()
        opset.domain, opset.version = "somebody.else", 1
        graph.write(proto, folder / "onnx" / "model.onnx")
        return Model.seal(folder, graphs.no_weights().signature)


class TestFP16(TechniqueConformance):
    technique = "fp16"
    tolerance = 0.01

    @pytest.fixture(autouse=True)
    def _with_fp16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine that computes in FP16, so that arithmetic is in the space as well."""
        machine = targets.target().machine
        machine = machine.model_copy(update={"isa": (*machine.isa, "avx512_fp16")})
        given = targets.target
        monkeypatch.setattr(
            "strop.testing.techniques.target",
            lambda **changes: given(**{"machine": machine, **changes}),
        )


class TestFP16OfConvolutions(TestFP16):
    case = graphs.convolutional()


class TestDynamicINT8(TechniqueConformance):
    technique = "int8-dynamic"


class TestStaticINT8(TechniqueConformance):
    technique = "int8-static"
    settings = 6


class TestStaticINT8OfConvolutions(TestStaticINT8):
    case = graphs.convolutional()


class TestNNCFINT8(TechniqueConformance):
    technique = "int8-nncf"
    settings = 2  # each of its settings calibrates afresh

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("nncf")
