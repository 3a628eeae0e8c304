"""Names and versions, and the models behind them: load, reload, unload while serving."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from strop.errors import InputError, StropError
from strop.serve.batcher import Batcher
from strop.serve.errors import Unavailable, UnknownModel
from strop.serve.model import ServedModel, open_model
from strop.serve.names import is_name
from strop.serve.plain import ENGINES
from strop.serve.request import InferRequest
from strop.serve.settings import ModelSettings
from strop.serve.warmup import warm

_log = logging.getLogger("strop.serve")

_JOIN_SECONDS = 5.0


class ModelState(NamedTuple):
    """One line of the repository's index; `state` as Triton spells it."""

    name: str
    version: str
    state: str
    reason: str


class _Entry:
    """What is known under one name."""

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self.name = name
        self.settings = settings
        self.batchers: dict[str, Batcher] = {}
        self.newest: Batcher | None = None
        self.states: dict[str, ModelState] = {}
        self.lock = asyncio.Lock()

    def mark(self, version: str, state: str, reason: str = "") -> None:
        self.states[version] = ModelState(self.name, version, state, reason)

    def point(self) -> None:
        """Let requests that name no version go to the newest."""
        versions = sorted(self.batchers, key=_age)
        self.newest = self.batchers[versions[-1]] if versions else None


class Repository:
    """All that is served. Its methods are called on the event loop's thread.

    Opening and warming happen on a thread of their own, one model at a time, and only a model that
    is warm takes traffic; from then on its predecessor gets no new requests, answers those it has,
    and goes. So a reload is never seen by clients.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._entries: dict[str, _Entry] = {}
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="serve-load")
        self._opening: set[Future[ServedModel]] = set()
        self._closed = False

    def resolve(self, request: InferRequest) -> Batcher:
        """Whom a request goes to. The place where a rollout's router will stand.

        Raises
        ------
        UnknownModel, Unavailable
            When nobody serves what is asked for, or not yet or no more.
        """
        entry = self._entries.get(request.model)
        if entry is not None:
            version = request.version
            batcher = entry.batchers.get(version) if version else entry.newest
            if batcher is not None:
                return batcher
        raise self._missing(request.model, request.version)

    def batcher(self, name: str, version: str = "") -> Batcher:
        """As `resolve`, by name."""
        entry = self._entries.get(name)
        if entry is not None:
            batcher = entry.batchers.get(version) if version else entry.newest
            if batcher is not None:
                return batcher
        raise self._missing(name, version)

    def model(self, name: str, version: str = "") -> ServedModel:
        """The model that would answer; raises as `resolve` does."""
        return self.batcher(name, version).model

    def versions(self, name: str) -> tuple[str, ...]:
        """The versions that are ready, oldest first; none for an unknown name."""
        entry = self._entries.get(name)
        return () if entry is None else tuple(sorted(entry.batchers, key=_age))

    def models(self) -> list[ServedModel]:
        """Every version of every model that takes requests."""
        return [batcher.model for batcher in self.batchers()]

    def batchers(self) -> list[Batcher]:
        """The batchers of `models`, in the same order."""
        return [
            entry.batchers[version]
            for _, entry in sorted(self._entries.items())
            for version in sorted(entry.batchers, key=_age)
        ]

    def ready(self, name: str, version: str = "") -> bool:
        """Whether a request to it would be taken."""
        try:
            return self.batcher(name, version).ready
        except (UnknownModel, Unavailable):
            return False

    def all_ready(self) -> bool:
        """Whether every model that is not unloaded on purpose has a version that takes requests."""
        wanted = [entry for entry in self._entries.values() if not _unloaded(entry)]
        return all(entry.newest is not None and entry.newest.ready for entry in wanted)

    def opening(self) -> bool:
        """Whether a thread is opening a model, wanted or not: it cannot be stopped in it."""
        return bool(self._opening)

    def index(self) -> list[ModelState]:
        """Every version known, with its state: READY, LOADING, UNLOADING or UNAVAILABLE."""
        return [
            entry.states[version]
            for _, entry in sorted(self._entries.items())
            for version in sorted(entry.states, key=_age)
        ]

    async def load(
        self, name: str, settings: ModelSettings | None = None, *, version: str | None = None
    ) -> None:
        """Load or reload a model; returns when it takes traffic and its predecessor is gone.

        Parameters
        ----------
        settings
            None means those that it was loaded with before.
        version
            Loads `settings.path` as this version beside the others. None loads all versions that
            the path holds (``1`` where it is a model itself) and lets other versions go.

        Raises
        ------
        UnknownModel
            When no settings are given and none are known.
        StropError
            When it cannot be opened; what was served before stays. The message may hold paths.
        """
        if not is_name(name):
            raise InputError(
                f"'{name}' cannot be a model's name",
                hint="use letters, digits, '.', '_' and '-', at most 128, and not 'stats'",
            )
        if version is not None and not is_name(version):
            raise InputError(f"'{version}' cannot be a version", hint="use a number")
        entry = self._entries.get(name)
        if entry is None:
            if settings is None:
                raise UnknownModel(f"there is no model '{name}'")
            entry = self._entries[name] = _Entry(name, settings)
        async with entry.lock:
            settings = settings or entry.settings
            try:
                await self._load(entry, settings, version)
            finally:
                if not entry.states:  # not even a version was found
                    self._entries.pop(name, None)
            entry.settings = settings

    async def unload(self, name: str, *, version: str = "") -> None:
        """Take a model, or one version of it, out; returns when its requests are answered.

        Raises
        ------
        UnknownModel
            When there is none.
        """
        entry = self._entries.get(name)
        if entry is None or (version and version not in entry.states):
            raise UnknownModel(f"there is no model '{name}'" + (f" {version}" if version else ""))
        async with entry.lock:
            # Those that could not be loaded, too: they are not missing any more.
            named = [version] if version else list(entry.states)
            leaving = [it for it in named if it in entry.batchers]
            gone = [entry.batchers.pop(it) for it in leaving]
            for it in leaving:
                entry.mark(it, "UNLOADING")
            entry.point()
            await asyncio.gather(*(self._let_go(batcher) for batcher in gone))
            for it in named:
                entry.mark(it, "UNAVAILABLE", "unloaded")

    async def close(self) -> None:
        """Let every model go, answered or not; for the end of the server."""
        self._closed = True
        batchers = self.batchers()
        for entry in self._entries.values():
            entry.batchers.clear()
            entry.newest = None
        for batcher in batchers:
            batcher.abort(Unavailable("the server is stopping", retry_after=1.0))
            await self._let_go(batcher)
        self._loader.shutdown(wait=False, cancel_futures=True)

    async def _load(self, entry: _Entry, settings: ModelSettings, version: str | None) -> None:
        found = _versions(settings.path)
        if version is not None:
            if len(found) != 1:
                raise InputError(f"'{settings.path}' holds several versions", hint="name one")
            found = {version: next(iter(found.values()))}
        replaced: list[Batcher] = []
        try:
            for number, path in found.items():
                model = await self._open(entry, number, path, settings)
                if (before := entry.batchers.get(number)) is not None:
                    replaced.append(before)
                entry.batchers[number] = Batcher(model, self._loop)
                entry.mark(number, "READY")
                entry.point()
            if version is None:
                for number in entry.batchers.keys() - found.keys():
                    replaced.append(entry.batchers.pop(number))
                    entry.mark(number, "UNAVAILABLE", "no longer in the repository")
                entry.point()
        finally:  # also when a later version cannot be opened
            await asyncio.gather(*(self._let_go(batcher) for batcher in replaced))

    async def _open(
        self, entry: _Entry, number: str, path: Path, settings: ModelSettings
    ) -> ServedModel:
        served = number in entry.batchers
        if not served:
            entry.mark(number, "LOADING")
        try:
            work = self._loader.submit(_open_warm, entry.name, number, path, settings)
            self._opening.add(work)
            work.add_done_callback(self._opening.discard)
            model = await asyncio.wrap_future(work)
            if self._closed:
                model.close()
                raise Unavailable("the server is stopping", retry_after=1.0)
            return model
        except BaseException as error:
            if not served:
                _log.error("version %s of '%s' cannot be loaded: %s", number, entry.name, error)
                entry.mark(number, "UNAVAILABLE", "it could not be loaded")
            raise

    async def _let_go(self, batcher: Batcher) -> None:
        await batcher.drain()
        instances = batcher.stop()

        def close() -> None:
            for instance in instances:
                instance.join(_JOIN_SECONDS)
            batcher.model.close()

        await self._loop.run_in_executor(None, close)

    def _missing(self, name: str, version: str) -> UnknownModel | Unavailable:
        entry = self._entries.get(name)
        if entry is None:
            return UnknownModel(f"there is no model '{_shown(name)}'")
        if version and version not in entry.states:
            return UnknownModel(f"the model '{name}' has no version '{_shown(version)}'")
        states = [it for it in entry.states.values() if version in ("", it.version)]
        loading = not states or any(it.state == "LOADING" for it in states)
        what = "is being loaded" if loading else "is not loaded"
        return Unavailable(f"the model '{name}' {what}", retry_after=1.0 if loading else None)


def _open_warm(name: str, version: str, path: Path, settings: ModelSettings) -> ServedModel:
    import psutil

    process = psutil.Process()
    before = process.memory_info().rss
    model = open_model(name, version, path, settings)
    try:
        warm(model)
        grown = process.memory_info().rss - before
        limit = settings.memory_limit
        if limit is not None and grown > limit:
            raise StropError(
                f"loading '{name}' took {grown / 2**20:.0f} MiB, its limit is "
                f"{limit / 2**20:.0f} MiB",
                hint="raise memory, or serve a smaller model",
            )
    except BaseException:
        model.close()
        raise
    return model


def _versions(path: Path) -> dict[str, Path]:
    """The versions that a path holds, oldest first.

    A folder of numbered folders is a repository of versions, as Triton's are: each holds a bundle,
    or one ``.onnx``, ``.xml`` or ``.tflite`` file.
    """
    if not path.is_dir() or (path / "manifest.json").exists():
        return {"1": path}
    numbered = [entry for entry in path.iterdir() if entry.is_dir() and entry.name.isdecimal()]
    if not numbered:
        bundle = path / "bundle"
        return {"1": bundle if (bundle / "manifest.json").exists() else path}
    found = {}
    for folder in sorted(numbered, key=lambda entry: int(entry.name)):
        files = [it for it in sorted(folder.iterdir()) if it.suffix.lower() in ENGINES]
        if not (folder / "manifest.json").exists() and len(files) != 1:
            raise InputError(f"'{folder}' holds no bundle and not one model: {', '.join(ENGINES)}")
        found[folder.name] = files[0] if len(files) == 1 else folder
    return found


def _unloaded(entry: _Entry) -> bool:
    return bool(entry.states) and all(it.reason == "unloaded" for it in entry.states.values())


def _age(version: str) -> tuple[int, int, str]:
    """Numbers by value, before names in alphabetical order."""
    return (0, int(version), "") if version.isdecimal() else (1, 0, version)


def _shown(text: str) -> str:
    """What a client sent, fit to be sent back: short, and without control characters."""
    return "".join(it if it.isprintable() else "?" for it in text[:64])
