"""Which channels of a module go together, found on torch-pruning's dependency graph and by trying.

Fang et al., *DepGraph: towards any structural pruning* (CVPR 2023, arXiv:2301.12900) follows
channels through residuals, concatenation, grouped convolution and squeeze-excite. It cannot see
what Python does with sizes (`chunk`, `view` into heads, hard-coded widths), so every group is
tried before it is used: a unit of channels is taken out, and the smaller module must give what
the whole one gives with the weights of those channels set to zero. Imports torch, so import it
late.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from strop.errors import MissingExtra, ModelError, NotApplicable
from strop.models.module_form import ModuleForm, describe_error
from strop.models.module_plan import Op, apply_plan, mark, prune_op
from strop.techniques.heads import HeadWatch, channels_of_heads, head_counts
from strop.techniques.smaller import are_close, sharing_copy, without_weights
from strop.techniques.splits import map_splits

Tensors = Mapping[str, Tensor]

_WITHOUT_A_TRACE = "qat, and all that trains nothing, do without"
_SPLITS = (1, 2, 3, 4)
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


@dataclass(frozen=True)
class Slices:
    """Where one channel of a group lies in one tensor.

    Attributes
    ----------
    tensor
        The parameter's name.
    dim
        The dimension that runs over channels.
    places
        Indices along `dim`.
    channels
        For each of them, the channel of the group's root.
    """

    tensor: str
    dim: int
    places: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that layers share.

    Attributes
    ----------
    root
        The layer that makes the channels, by name.
    units
        The smallest sets of channels that can be taken out, each sorted.
    slices
        All that a channel's weights are, in every layer that has it.
    norms
        Batch normalisations among those layers.
    heads
        The module and attribute that count the units, where units are attention heads.
    """

    root: str
    units: tuple[tuple[int, ...], ...]
    slices: tuple[Slices, ...]
    norms: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()


class Dependencies:
    """The prunable groups of a module.

    Parameters
    ----------
    module
        Not changed.
    inputs
        A small batch on which the module is traced and its groups are tried.

    Attributes
    ----------
    groups
        In the order of the layers.
    refused
        For the other groups' roots, why they stay whole.

    Raises
    ------
    NotApplicable
        When the module cannot be traced; the message names the user's line where it shows.
    """

    def __init__(self, module: nn.Module, form: ModuleForm, inputs: Tensors) -> None:
        self._module, self._form, self._inputs = module, form, inputs
        self._marked = copy.deepcopy(module).cpu().eval().requires_grad_(True)
        self._graph = self._trace(self._marked)
        self._twins: dict[Any, list[nn.Module]] = {}
        """Layers by the weight that they share."""
        for layer in self._marked.modules():
            if isinstance(weight := getattr(layer, "weight", None), nn.Parameter):
                self._twins.setdefault(weight, []).append(layer)
        mark(self._marked)
        self._heads = HeadWatch()
        with torch.no_grad(), self._heads:
            self._outputs = form.run(module.eval(), inputs)
        self.groups: list[Group] = []
        self.refused: dict[str, str] = {}
        for root, channels in self._roots():
            try:
                self.groups.append(self._group(root, channels))
            except NotApplicable as error:
                self.refused[root] = error.message

    def remove(self, chosen: Mapping[str, Sequence[int]]) -> Op:
        """The plan operation that takes units out.

        Parameters
        ----------
        chosen
            By a group's root, the numbers of the units to take out.

        Raises
        ------
        NotApplicable
            When the smaller module does not run; each group alone does.
        """
        by_root = {group.root: group for group in self.groups}
        wanted = {by_root[root]: list(units) for root, units in chosen.items() if units}
        with self._removed(wanted):
            op = prune_op(self._module, self._marked)
        self._run(op)
        return op

    def _trace(self, module: nn.Module) -> Any:
        try:
            import torch_pruning as tp
        except ImportError as error:
            raise MissingExtra("torch-pruning", extra="train") from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of parameters outside layers: those are tried
                found = tp.DependencyGraph().build_dependency(
                    module,
                    example_inputs=dict(self._inputs),
                    forward_fn=self._form.run,
                    output_transform=lambda values: [t for t in values.values() if t.requires_grad],
                    verbose=False,
                )
                map_splits(found)
                return found
        except Exception as error:  # tracing runs the user's code
            raise NotApplicable(
                f"cannot be traced: {describe_error(error)}", hint=_WITHOUT_A_TRACE
            ) from error

    def _roots(self) -> list[tuple[str, int]]:
        """Layers with channels of their own, one for each group, and how many they have."""
        roots: list[tuple[str, int]] = []
        seen: set[tuple[nn.Module, bool]] = set()
        for name, layer in self._marked.named_modules():
            if not isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
                continue
            if layer not in self._graph.module2node or (layer, True) in seen:
                continue
            channels = self._graph.get_out_channels(layer)
            cuts = self._cuts(name, range(channels))
            seen.update((cut.layer, cut.outputs) for cut in cuts)
            roots.append((name, channels))
        return roots

    def _group(self, root: str, channels: int) -> Group:
        """The group of `root`, with the first way of cutting it into units that works."""
        full = self._cuts(root, range(channels))
        layers = [cut.layer for cut in full]
        if any(isinstance(layer, nn.MultiheadAttention) for layer in layers):
            raise NotApplicable("nn.MultiheadAttention has no room for fewer channels")
        slices, norms = self._slices(full)
        reason = "has a single channel"
        for units, heads in self._candidates(root, channels, layers):
            if len(units) < 2:
                continue
            group = Group(root, units, slices, norms, heads)
            try:
                self._try(group, any(isinstance(layer, _NORMS) for layer in layers))
            except NotApplicable as error:
                reason = error.message
                continue
            return group
        raise NotApplicable(reason)

    def _candidates(
        self, root: str, channels: int, layers: Sequence[Any]
    ) -> Iterator[tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]]:
        """Ways to cut channels into units: evenly over convolution groups or the parts that the
        module splits them into, then whole attention heads.
        """
        convs = [m for m in layers if isinstance(m, nn.modules.conv._ConvNd)]
        declared = {m.groups for m in convs if 1 < m.groups < m.out_channels}
        for parts in (*sorted(declared), *_SPLITS):
            if channels % parts == 0:
                step = channels // parts
                yield tuple(tuple(range(i, channels, step)) for i in range(step)), ()
        counted = {
            name: int(getattr(*self._attribute(name))) for name in head_counts(self._marked, root)
        }
        for name, count in counted.items():
            for parts in (1, 3):  # separate projections, or query, key and value in one
                if count > 1 and channels % (count * parts) == 0:
                    yield channels_of_heads(channels, count, parts), (name,)
        for width, count in sorted(self._heads.seen):  # code that leaves their number open
            for parts in (1, 3):
                if count > 1 and width * parts == channels:
                    yield channels_of_heads(channels, count, parts), ()

    def _attribute(self, name: str) -> tuple[nn.Module, str]:
        path, _, attribute = name.rpartition(".")
        return (self._marked.get_submodule(path) if path else self._marked), attribute

    def _holders(self, tensor: Any) -> list[tuple[nn.Module, str]]:
        """Where a parameter lies, by every name that it has; nowhere for a layer."""
        named = self._marked.named_parameters(remove_duplicate=False)
        return [self._attribute(name) for name, one in named if one is tensor]

    def _cut_parameter(self, tensor: nn.Parameter, places: Mapping[int, int]) -> None:
        """Take places out of a parameter outside of layers, a position embedding say."""
        dim = self._graph.module2node[tensor].pruning_dim
        left = [place for place in range(tensor.shape[dim]) if place not in places]
        smaller = nn.Parameter(tensor.detach().index_select(dim, torch.tensor(left)))
        for owner, attribute in self._holders(tensor):
            setattr(owner, attribute, smaller)

    def _cuts(self, root: str, channels: Sequence[int]) -> list[_Cut]:
        """What goes with some output channels of `root`, in every layer."""
        layer = self._marked.get_submodule(root)
        function = self._graph.get_pruner_of_module(layer).prune_out_channels
        found: dict[tuple[int, bool], _Cut] = {}
        waiting = [(layer, function, tuple(channels), tuple(channels))]
        while waiting:
            layer, function, places, origins = waiting.pop()
            origin = dict(zip(places, origins, strict=True))
            for item in self._graph.get_pruning_group(layer, function, list(places)):
                part, handler = item.dep.target.module, item.dep.handler
                # What lies outside of layers has channels along one dimension, on no side.
                outputs = isinstance(part, nn.Parameter) or (
                    self._graph.is_out_channel_pruning_fn(handler)
                )
                if not isinstance(part, nn.Parameter) and (
                    not _has_tensors(part) or _is_broadcast(part, outputs)
                ):
                    continue
                cut = found.setdefault((id(part), outputs), _Cut(part, handler, outputs, {}))
                news = [p for p in item.idxs if p not in cut.places]
                cut.places.update(
                    (place, origin[one])
                    for place, one in zip(item.idxs, item.root_idxs, strict=True)
                )
                for other in self._twins.get(getattr(part, "weight", None), ()):
                    if other is not part and news and other in self._graph.module2node:
                        pruner = self._graph.get_pruner_of_module(other)
                        same = pruner.prune_out_channels if outputs else pruner.prune_in_channels
                        origins = tuple(cut.places[place] for place in news)
                        waiting.append((other, same, tuple(news), origins))
        return list(found.values())

    @contextlib.contextmanager
    def _removed(self, chosen: Mapping[Group, Sequence[int]]) -> Iterator[None]:
        """Inside, the units are gone from the marked copy."""
        cuts: dict[tuple[int, bool], _Cut] = {}
        counts: list[tuple[nn.Module, str, int]] = []
        for group, units in chosen.items():
            channels = sorted(channel for unit in units for channel in group.units[unit])
            for cut in self._cuts(group.root, channels):
                cuts.setdefault((id(cut.layer), cut.outputs), cut).places.update(cut.places)
            counts += [(*self._attribute(name), len(units)) for name in group.heads]
        layers = [cut.layer for cut in cuts.values() if not isinstance(cut.layer, nn.Parameter)]
        owners = [owner for cut in cuts.values() for owner, _ in self._holders(cut.layer)]
        owners += [owner for owner, _, _ in counts]
        parts = {id(part): part for part in (*layers, *owners)}
        before = {key: _shallow(part.__dict__) for key, part in parts.items()}
        try:
            for cut in cuts.values():
                if isinstance(cut.layer, nn.Parameter):
                    self._cut_parameter(cut.layer, cut.places)
                else:
                    cut.handler(cut.layer, sorted(cut.places))
            for owner, attribute, count in counts:
                setattr(owner, attribute, getattr(owner, attribute) - count)
            yield
        finally:
            for key, part in parts.items():
                part.__dict__.clear()
                part.__dict__.update(before[key])

    def _try(self, group: Group, normalised: bool) -> None:
        """Take out one unit, then two, and compare with the whole module without their weights."""
        last = len(group.units) - 1
        for units in ([0], [0, last] if last > 1 else [last]):
            try:
                with self._removed({group: units}):
                    op = prune_op(self._module, self._marked)
            except (ModelError, RuntimeError, ValueError, IndexError, AttributeError) as error:
                raise NotApplicable(f"cannot be cut: {error}") from error
            if not op["keep"]:
                raise NotApplicable("no weights of its own")
            smaller = self._run(op)
            if normalised:
                continue  # a normalisation over channels has other statistics without some
            silenced = without_weights(self._module, op, self._form, self._inputs)
            if not are_close(smaller, silenced, self._outputs):
                raise NotApplicable("taking out its channels changes what others do")

    def _run(self, op: Op) -> dict[str, Tensor]:
        """The outputs of the module after `op`."""
        try:
            smaller = apply_plan(sharing_copy(self._module), [op]).eval()
            with torch.no_grad():
                outputs = self._form.run(smaller, self._inputs)
        except Exception as error:  # the user's forward may count on the old shapes
            raise NotApplicable(f"does not run when smaller: {describe_error(error)}") from error
        for name, value in self._outputs.items():
            if outputs[name].shape != value.shape:
                raise NotApplicable(f"they are channels of the output '{name}'")
        return outputs

    def _slices(self, full: Sequence[_Cut]) -> tuple[tuple[Slices, ...], tuple[str, ...]]:
        names: dict[Any, str] = {layer: name for name, layer in self._marked.named_modules()}
        names.update((tensor, name) for name, tensor in self._marked.named_parameters())
        slices, norms = [], []
        for cut in full:
            if cut.layer not in names:
                continue
            name = names[cut.layer]
            if isinstance(cut.layer, nn.modules.batchnorm._BatchNorm):
                norms.append(name)
            places, channels = tuple(cut.places), tuple(cut.places.values())
            if isinstance(cut.layer, nn.Parameter):
                dim = self._graph.module2node[cut.layer].pruning_dim
                slices.append(Slices(name, dim, places, channels))
                continue
            for attribute, dim in _dimensions(cut.layer, cut.outputs):
                tensor = getattr(cut.layer, attribute, None)
                if tensor is not None and max(places, default=0) < tensor.shape[dim]:
                    slices.append(Slices(f"{name}.{attribute}", dim, places, channels))
        return tuple(slices), tuple(dict.fromkeys(norms))


@dataclass(frozen=True)
class _Cut:
    """What goes from one side of one layer: by place, the channel of the root it belongs to."""

    layer: Any
    handler: Any
    outputs: bool
    places: dict[int, int]


def _has_tensors(layer: nn.Module) -> bool:
    """Whether there is anything to cut: operators of the graph have nothing."""
    return any(True for _ in (*layer.parameters(False), *layer.buffers(False)))


def _is_broadcast(layer: nn.Module, outputs: bool) -> bool:
    """Whether a layer has one channel there: it is stretched over the others, and stays."""
    if isinstance(layer, nn.Linear):
        return bool((layer.out_features if outputs else layer.in_features) == 1)
    if isinstance(layer, nn.modules.conv._ConvNd):
        return bool((layer.out_channels if outputs else layer.in_channels) == 1)
    return False


def _dimensions(layer: nn.Module, outputs: bool) -> tuple[tuple[str, int], ...]:
    """A layer's tensors, each with the dimension that runs over the channels in question."""
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return (("weight", 1), ("bias", 0)) if outputs else (("weight", 0),)
    if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
        return (("weight", 0), ("bias", 0)) if outputs else (("weight", 1),)
    if isinstance(layer, nn.Embedding):
        return (("weight", 1),)
    if isinstance(layer, (nn.modules.batchnorm._BatchNorm, *_NORMS)):
        return (("weight", 0), ("bias", 0))
    return ()


def _shallow(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of an object's attributes whose containers are copies too."""
    return {
        name: copy.copy(value) if isinstance(value, dict | list | set) else value
        for name, value in values.items()
    }
