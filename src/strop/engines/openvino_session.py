"""A network compiled by OpenVINO, for all shapes at once and for those that come often."""

from __future__ import annotations

import queue
import threading
from typing import Any, TypeVar

import numpy as np

from strop.engines._base import Arrays, Session
from strop.engines.validation import validate
from strop.errors import StropError
from strop.records import Placement, Signature

_OFTEN = 8
"""Calls with one shape before the network is compiled for it: not for the odd last batch."""
_SPECIALISED = 2
"""Shapes that get a compilation of their own; each holds its weights once more."""
_WATCHED = 64
"""Shapes that calls are counted for."""

_Shapes = tuple[tuple[int, ...], ...]
_Requests = queue.LifoQueue[Any]
_Held = TypeVar("_Held")


class OpenVINOSession(Session):
    """Calls beyond the streams wait for a free request; shapes are compiled for as they come.

    Parameters
    ----------
    network
        An `openvino.Model` with its free dimensions.
    properties
        What it is compiled with.
    ports
        Where each input and output of `signature` stands in the network.
    device
        What OpenVINO calls it: ``CPU``, ``GPU.1`` …
    specialise
        Whether shapes that come often get a compilation of their own.
    """

    thread_safe = True

    def __init__(
        self,
        network: Any,
        properties: dict[str, Any],
        ports: tuple[tuple[int, ...], tuple[int, ...]],
        signature: Signature,
        placement: Placement,
        *,
        device: str = "CPU",
        specialise: bool = False,
    ) -> None:
        self.signature = signature
        self.concurrency = placement.streams
        inputs, outputs = ports
        self._inputs = tuple(zip(inputs, signature.input_names, strict=True))
        self._outputs = tuple(zip(outputs, signature.output_names, strict=True))
        self._network = network
        self._device = device
        self._properties = properties
        self._specialise = specialise and any(
            port.get_partial_shape().is_dynamic for port in network.inputs
        )
        self._own: dict[_Shapes, _Requests] = {}
        self._calls: dict[_Shapes, int] = {}
        self._compiling = threading.Lock()
        self._shared: _Requests | None = self._compile(network)
        self._closed = False

    @property
    def specialised(self) -> int:
        """How many shapes have a compilation of their own."""
        return len(self._own)

    @property
    def serves_all(self) -> bool:
        """Whether the compilation for all shapes is in memory now."""
        return self._shared is not None

    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        if self._closed:
            raise StropError("the session is closed")
        validate(arrays, self.signature)
        given = {port: arrays[name] for port, name in self._inputs}
        requests = self._requests_for(given)
        request = requests.get()
        try:
            # Inputs are read in place, outputs are copied: the request reuses its own buffers.
            values = request.infer(given, share_inputs=True, share_outputs=False)
            return {name: values[port] for port, name in self._outputs}
        except RuntimeError as error:
            raise StropError(f"OpenVINO failed: {gist(error)}") from error
        finally:
            requests.put(request)

    def close(self) -> None:
        self._closed = True
        self._own.clear()
        self._shared = self._network = None

    def _requests_for(self, given: dict[int, np.ndarray]) -> _Requests:
        if not self._specialise:
            return self._open(self._shared)
        shapes = tuple(array.shape for array in given.values())
        own = self._own.get(shapes)
        return self._watch(shapes, given) if own is None else own

    def _watch(self, shapes: _Shapes, given: dict[int, np.ndarray]) -> _Requests:
        """The requests for shapes without a compilation of their own, which they may get now."""
        with self._compiling:
            network = self._open(self._network)
            if len(self._calls) < _WATCHED or shapes in self._calls:
                self._calls[shapes] = self._calls.get(shapes, 0) + 1
            often = self._calls.get(shapes, 0) >= _OFTEN
            if often and len(self._own) < _SPECIALISED and shapes not in self._own:
                fixed = network.clone()
                fixed.reshape({port: list(array.shape) for port, array in given.items()})
                self._own[shapes] = self._compile(fixed)
                if len(self._calls) == 1:
                    # The only shape so far: what serves all of them need not stay in memory.
                    self._shared = None
            if shapes in self._own:
                return self._own[shapes]
            if self._shared is None:
                self._shared = self._compile(network)
            return self._shared

    @staticmethod
    def _open(held: _Held | None) -> _Held:
        """What an open session holds; another thread may close it while this one asks."""
        if held is None:
            raise StropError("the session is closed")
        return held

    def _compile(self, network: Any) -> _Requests:
        import openvino

        compiled = openvino.compile_model(network, self._device, self._properties)
        requests: _Requests = queue.LifoQueue()
        for _ in range(self.concurrency):
            requests.put(compiled.create_infer_request())
        return requests


def gist(error: Exception) -> str:
    """The last line that says something: OpenVINO puts source lines and check texts first."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)
