"""The Open Inference Protocol's bytes: tensors and messages, decoded and encoded."""

from strop.serve.codec.datatypes import datatype_of, datatype_of_array, dtype_of
from strop.serve.codec.limits import Limits, decompress
from strop.serve.codec.messages import Decoded, Encoded, decode, decode_raw, encode

__all__ = [
    "Decoded",
    "Encoded",
    "Limits",
    "datatype_of",
    "datatype_of_array",
    "decode",
    "decode_raw",
    "decompress",
    "dtype_of",
    "encode",
]
