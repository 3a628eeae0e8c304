"""The messages of the gRPC protocols, built at run time.

They live in a descriptor pool of their own: a client library for the same protocol registers
messages of the same names in the default pool, and the two could not be imported together.
"""

from strop.serve.proto.messages import HEALTH, SERVICE, message

__all__ = ["HEALTH", "SERVICE", "message"]
