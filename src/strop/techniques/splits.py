"""Which channels each part of a split has, on torch-pruning's dependency graph."""

from __future__ import annotations

from typing import Any


def map_splits(graph: Any) -> None:
    """Say which channels each part of a split has.

    torch-pruning infers it from what reads the parts, which is wrong where a part is concatenated
    and where parts are read in another order than they are made in.
    """
    from torch_pruning.dependency import index_mapping

    nodes = list(graph.module2node.values())
    for node in nodes:
        operation = type(node.module).__name__
        if operation == "_ConcatOp":
            node.module.concat_sizes = None
        if operation != "_SplitOp":
            continue
        sizes = _split_sizes(node.grad_fn)
        # torch-pruning's own mapping would go by the order of the readers.
        node.module.offsets = None
        node.module.split_sizes = None
        if sizes is None:
            continue
        starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        parts = []
        for reader in node.outputs:
            part = next((n for f, n in reader.grad_fn.next_functions if f is node.grad_fn), 0)
            parts.append(sizes[part])
            bounds = starts[part : part + 2]
            for one, other, reverse in ((node, reader, False), (reader, node, True)):
                for dep in one.dependencies:
                    if dep.target is other:
                        mapping = index_mapping._SplitIndexMapping(offset=bounds, reverse=reverse)
                        dep.index_mapping[0] = mapping
        node.module.split_sizes = parts
    for node in nodes:
        for dep in node.dependencies:
            dep.index_mapping[1] = None
    index_mapping.update_index_mapping(graph)


def _split_sizes(operation: Any) -> list[int] | None:
    """Sizes of the parts of a split over channels; None for a split over anything else."""
    whole = list(operation._saved_self_sym_sizes)
    dim = operation._saved_dim
    dim = dim if dim < len(whole) else dim - 2**64  # torch keeps a negative one unsigned
    if dim % len(whole) not in (1, len(whole) - 1):
        return None
    if hasattr(operation, "_saved_split_sizes"):
        return [int(size) for size in operation._saved_split_sizes]
    size, total = int(operation._saved_split_size), int(whole[dim])
    return [min(size, total - start) for start in range(0, total, size)]
