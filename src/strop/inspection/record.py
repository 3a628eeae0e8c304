"""What an inspection found, as plain data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strop.records import Machine, Record, Signature, Space


class Layer(Record):
    """One node of the graph, with its operations and the bytes that it reads and writes."""

    name: str
    operator: str
    flops: int
    bytes_moved: int


class Cost(Record):
    """What one call costs at the sizes of the inspection.

    Attributes
    ----------
    operators
        How often each operator occurs, the commonest first.
    parameters
        Elements of the weights.
    flops
        Floating-point operations; a multiply-add counts two.
    bytes_moved
        Bytes that all nodes read and write, as if nothing were fused.
    weights_bytes
        Bytes of the stored tensors.
    least_bytes
        Bytes that no runtime can do without: weights, inputs and outputs, once each.
    unknown_nodes
        Nodes that are in neither count because a shape depends on data.
    heaviest
        The nodes with the most operations, the heaviest first.
    """

    operators: dict[str, int]
    parameters: int
    flops: int
    bytes_moved: int
    weights_bytes: int
    least_bytes: int
    control_flow: bool
    quantised: bool
    unknown_nodes: int
    heaviest: tuple[Layer, ...]


class Limit(Record):
    """The least time that a call can take here, by the roofline (Williams et al., CACM 52, 2009).

    It assumes that the weights come from memory at every call; a model that stays in the
    processor's caches may be faster than the memory side says.

    Attributes
    ----------
    arithmetic
        Whose peak counts: ``int8`` for a quantised graph.
    peak
        Operations a second, measured.
    bandwidth
        Bytes a second, measured.
    intensity
        Operations a byte.
    seconds, side
        The limit, and which of the two sets it.
    """

    arithmetic: Literal["fp32", "int8"]
    peak: float
    bandwidth: float
    threads: int
    intensity: float
    seconds: float
    side: Literal["compute", "memory"]


class Verdict(Record):
    """Whether an engine or a technique can do something for the model.

    Attributes
    ----------
    reason
        Why it does not apply; empty where it does.
    needs
        Roles of the data that it reads (``calibrate``, ``train``).
    space
        What a search would vary; empty where it does not apply.
    """

    name: str
    ok: bool
    reason: str = ""
    needs: tuple[str, ...] = ()
    space: Space = Space()


class Inspection(Record):
    """What `strop inspect` prints.

    Attributes
    ----------
    sizes
        The shape of each input that `cost` and `limit` hold for.
    assumed
        Dimensions that neither the model nor the caller fixes, and what was taken for them.
    changes
        What was changed to bring the model into strop's normal form.
    notes
        What could not be told, and why.
    cost
        None for a model without an ONNX form.
    limit
        None where nothing was measured.
    """

    schema_version: int = Field(default=1, alias="schema")
    model: str
    format: str
    producer: str
    model_digest: str
    signature: Signature
    changes: tuple[str, ...]
    notes: tuple[str, ...]
    sizes: dict[str, tuple[int, ...]]
    assumed: tuple[str, ...]
    cost: Cost | None
    limit: Limit | None
    engines: tuple[Verdict, ...]
    techniques: tuple[Verdict, ...]
    machine: Machine
