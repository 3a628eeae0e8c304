"""Serving models over the Open Inference Protocol: a core with dynamic batching, thin fronts."""
