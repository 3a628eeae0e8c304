"""What a model is, what a call costs on paper, how fast it could be here, and what applies."""

from strop.inspection.inspecting import inspect
from strop.inspection.record import Cost, Inspection, Layer, Limit, Verdict

__all__ = ["Cost", "Inspection", "Layer", "Limit", "Verdict", "inspect"]
