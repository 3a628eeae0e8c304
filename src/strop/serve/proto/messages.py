"""Message classes by name, from the descriptors in this folder."""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from strop.serve.proto.descriptor import DESCRIPTORS

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"


@functools.cache
def message(name: str, package: str = "inference") -> Any:
    r"""The class of a message.

    Raises
    ------
    KeyError
        When there is none of that name.

    Examples
    --------
    >>> message("ServerLiveResponse")(live=True).SerializeToString()
    b'\x08\x01'
    """
    found: Any = _pool().FindMessageTypeByName(f"{package}.{name}")
    return message_factory.GetMessageClass(found)


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS).file:
        pool.Add(file)
    return pool
