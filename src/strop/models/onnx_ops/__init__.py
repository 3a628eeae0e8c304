"""How each ONNX operator is written in PyTorch; one file a group, `builder` for what they share.

Only `strop.models.onnx_module` imports it, and late: the groups import torch.
"""
