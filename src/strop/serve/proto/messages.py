"""Message classes by name, from the descriptor in this folder."""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from strop.serve.proto.descriptor import DESCRIPTOR

SERVICE = "inference.GRPCInferenceService"


@functools.cache
def message(name: str) -> Any:
    r"""The class of a message in the package ``inference``.

    Raises
    ------
    KeyError
        When there is none of that name.

    Examples
    --------
    >>> message("ServerLiveResponse")(live=True).SerializeToString()
    b'\x08\x01'
    """
    found: Any = _pool().FindMessageTypeByName(f"inference.{name}")
    return message_factory.GetMessageClass(found)


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(DESCRIPTOR))
    return pool
