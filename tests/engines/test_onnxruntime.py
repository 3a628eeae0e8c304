from strop.testing.engines import EngineConformance


class TestConformance(EngineConformance):
    engine = "onnxruntime"
