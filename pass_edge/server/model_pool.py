"""The models of a server: loaded when a request asks for them, unloaded when another needs their memory.

A request finds its model (``find``), enters the model's queue, and holds its engine (``hold``) until it is
answered. A model in use is never unloaded. All of this runs in the server's
event loop; only loading and freeing run in a thread of their own, one model at a time, so that answers of
other models go on.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from starlette.exceptions import HTTPException

from pass_edge import Engine
from pass_edge.native.embedder import Embedder
from pass_edge.native.errors import PassEdgeError, SettingsError
from pass_edge.native.file_kind import Kind

from .admission import SHUTTING_DOWN, AdmissionQueue
from .errors import BusyError, ModelNotFoundError

log = logging.getLogger("pass_edge.server")
T = TypeVar("T")
AnyEngine = Engine | Embedder

_GIB = 1 << 30
_INSTEAD = {
    Kind.TEXT: "is a model that writes text; serve an embedding model for embeddings",
    Kind.EMBEDDING: "is an embedding model, which writes no text; it answers at /v1/embeddings",
}


@dataclass(frozen=True)
class ModelSource:
    """A model that can be served.

    ``name``: for clients; ``kind``: TEXT or EMBEDDING; ``open`` loads it, and may take long; ``given``: what
    the user called it, which clients may do too; ``parallel``: requests that it answers at a time;
    ``n_bytes``: the memory that it takes, estimated.
    """

    name: str
    kind: Kind
    open: Callable[[], AbstractContextManager[AnyEngine]]
    given: str = ""
    parallel: int = 1
    n_bytes: int = 0


class LoadedModel:
    """An engine and the requests that use it. ``last_used``: the number of its last use in this process."""

    _uses = itertools.count()

    def __init__(self, source: ModelSource) -> None:
        """Load ``source``. Raises what its ``open`` raises."""
        self._opened = ExitStack()
        self.engine = self._opened.enter_context(source.open())
        self.last_used = next(self._uses)
        self.users = 0
        self._idle = asyncio.Event()

    @contextmanager
    def use(self) -> Iterator[AnyEngine]:
        """Hold the engine: until the end it is not closed."""
        self.users += 1
        try:
            yield self.engine
        finally:
            self.users -= 1
            self.last_used = next(self._uses)
            if not self.users:
                self._idle.set()

    async def wait_until_idle(self) -> None:
        """Wait until no request uses the engine."""
        while self.users:
            self._idle.clear()
            await self._idle.wait()

    def close(self) -> None:
        """Free the engine; safe to call twice."""
        self._opened.close()


class Load:
    """A load that is under way or waits for its turn. ``finished`` has its result: why it failed, or an empty
    text; ``waiting``: the requests that wait for it; ``task`` does it."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.finished: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.waiting = 0
        self._taken = asyncio.Event()

    @contextmanager
    def wait(self) -> Iterator[asyncio.Future[str]]:
        """Count among those who wait, until the end of the context."""
        self.waiting += 1
        try:
            yield self.finished
        finally:
            self.waiting -= 1
            if not self.waiting:
                self._taken.set()

    def finish(self, failure: str) -> None:
        """Tell those who wait that the load has ended, if they have not been told so."""
        if not self.finished.done():
            self.finished.set_result(failure)

    async def wait_until_taken(self) -> None:
        """Wait until nobody waits for the load any more."""
        while self.waiting:
            self._taken.clear()
            await self._taken.wait()


class ServedModel:
    """A model of a server: its ``queue``, and what is ``loaded`` of it, None before and after.

    Attributes: ``failure``: why it could not be loaded the last time, or empty; ``loads``, ``failed_loads``
    and ``unloads`` so far; ``created``: when the server began to offer it, in seconds.
    """

    def __init__(self, source: ModelSource, max_waiting: int) -> None:
        self.source = source
        self.name = source.name
        self.queue = AdmissionQueue(max_waiting, source.parallel)
        self.created = int(time.time())
        self.loaded: LoadedModel | None = None
        self.load: Load | None = None
        self.failure = ""
        self.loads = self.failed_loads = self.unloads = 0

    @property
    def status(self) -> str:
        """ "loaded", "loading" or "unloaded", in the words of llama.cpp's server."""
        return "loaded" if self.loaded else "loading" if self.load else "unloaded"


class ModelPool:
    """The models of one server, of which some are loaded. Close it, or use it as a context manager.

    Attributes: ``models``, in the order given; ``memory``: the most bytes of the loaded models together.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        *,
        max_waiting: int,
        memory: int = 0,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``max_waiting``: requests that wait for each model while others are answered; ``memory``: not used
        for a single model; ``note``: called with a sentence about each load, from any thread. Raises
        SettingsError if two models have one name."""
        names = [source.name for source in sources]
        if twice := {name for name in names if names.count(name) > 1}:
            raise SettingsError(
                f"two models have the name {min(twice)!r}; give each model a name of its own with --alias"
            )
        self.models = [ServedModel(source, max_waiting) for source in sources]
        self.memory = memory
        self._note = note
        self._thread = ThreadPoolExecutor(1, "load")
        self._turn = asyncio.Lock()
        self._opened: list[LoadedModel] = []

    # -- finding a model --------------------------------------------------------------------------

    def find(self, name: str | None, kind: Kind | None = None) -> ServedModel:
        """Return the model that a request for ``name`` gets: a single model whatever the name, of several the
        one of this name; without a name, the first one. Raises ModelNotFoundError, and HTTPException (400) if
        it is not of the ``kind`` that is needed."""
        fitting = [model for model in self.models if kind in (None, model.source.kind)]
        if len(self.models) == 1 or not name:
            model = (fitting or self.models)[0]
        else:
            model = self.named(name)
        if kind not in (None, model.source.kind):
            raise HTTPException(400, f"{model.name} {_INSTEAD[model.source.kind]}")
        return model

    def named(self, name: str) -> ServedModel:
        """Return the model of this name. Raises ModelNotFoundError."""
        for model in self.models:
            if name in (model.name, model.source.given):
                return model
        raise ModelNotFoundError(name, [model.name for model in self.models])

    def has(self, kind: Kind) -> bool:
        """Return whether a model is of this kind."""
        return any(model.source.kind is kind for model in self.models)

    # -- requests ---------------------------------------------------------------------------------

    async def hold(self, model: ServedModel, held: ExitStack) -> AnyEngine:
        """Return the engine of ``model``, loaded if it was not; it is not unloaded until ``held`` is closed.
        Raises HTTPException (500) if it cannot be loaded, BusyError if the server shuts down meanwhile.
        Cancelling the wait does not cancel the load."""
        if model.loaded:
            return held.enter_context(model.loaded.use())
        if model.load is None:
            model.load = Load()
            model.load.task = asyncio.create_task(self._load(model, model.load))
        with model.load.wait() as finished:
            if failure := await asyncio.shield(finished):
                if self.is_closed:
                    raise BusyError(503, SHUTTING_DOWN)
                raise HTTPException(500, f"{model.name} cannot be loaded: {failure}")
            assert model.loaded
            return held.enter_context(model.loaded.use())

    @property
    def is_loading(self) -> bool:
        """Whether a model is being loaded, or waits for its turn."""
        return any(model.load for model in self.models)

    @property
    def is_closed(self) -> bool:
        """Whether no more requests are admitted."""
        return all(model.queue.is_closed for model in self.models)

    def refuse_new(self) -> None:
        """Admit no more requests. Those admitted stay, but for those that wait for a model to load: loading
        takes too long. May be called by a signal handler."""
        for model in self.models:
            model.queue.close()
            if load := model.load:
                load.finished.get_loop().call_soon_threadsafe(load.finish, SHUTTING_DOWN)

    # -- loading ----------------------------------------------------------------------------------

    def load_first(self) -> LoadedModel:
        """Load the first model now, before the server runs. Raises what loading it raises."""
        model = self.models[0]
        model.loaded = self._open(model)
        return model.loaded

    async def _load(self, model: ServedModel, load: Load) -> None:
        """Load ``model`` when it is its turn, if somebody still waits for it then. The turn lasts until those
        who wait hold the engine: the next load must not unload it before."""
        async with self._turn:
            if load.waiting:
                model.failure = await self._try_to_load(model)
            model.load = None
            load.finish(model.failure)
            await load.wait_until_taken()

    async def _try_to_load(self, model: ServedModel) -> str:
        """Load ``model``; return why that failed, or an empty text."""
        try:
            await self._make_room(model)
            model.loaded = await self._in_thread(lambda: self._open(model))
            return ""
        except PassEdgeError as error:
            failure = str(error)
        except Exception as error:
            log.error("%s cannot be loaded", model.name, exc_info=error)
            failure = "internal error; the server's log has the details"
        model.failed_loads += 1
        self._note(f"{model.name} cannot be loaded: {failure}")
        return failure

    async def _make_room(self, model: ServedModel) -> None:
        """Unload others until ``model`` fits beside them. Raises SettingsError if it does not fit alone."""
        needed = model.source.n_bytes
        if needed > self.memory and len(self.models) > 1:
            raise SettingsError(
                f"it needs about {needed / _GIB:.1f} GiB of memory, and the models of this server may take "
                f"{self.memory / _GIB:.1f} GiB together; start the server with a smaller --ctx-size or "
                "--parallel, or with a larger --memory"
            )
        while True:
            others = [other for other in self.models if other.loaded]
            if needed + sum(other.source.n_bytes for other in others) <= self.memory or not others:
                return
            await self._unload(min(others, key=_by_use))

    async def _unload(self, model: ServedModel) -> None:
        """Unload ``model`` once it is idle. Requests that come meanwhile wait until it is loaded again: a
        busy model must not keep others out for ever."""
        loaded, model.loaded = model.loaded, None
        assert loaded
        await loaded.wait_until_idle()
        await self._in_thread(loaded.close)
        self._opened.remove(loaded)
        model.unloads += 1
        self._note(f"{model.name} unloaded: it was used least recently")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self, model: ServedModel) -> LoadedModel:
        self._note(f"loading {model.name} …")
        began = time.perf_counter()
        loaded = LoadedModel(model.source)
        self._opened.append(loaded)
        model.loads += 1
        self._note(f"{model.name} loaded in {time.perf_counter() - began:.1f} s")
        return loaded

    def close(self) -> None:
        """Wait for a load under way, then free all models; safe to call twice."""
        self._thread.shutdown(cancel_futures=True)
        while self._opened:
            self._opened.pop().close()

    def __enter__(self) -> ModelPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _by_use(model: ServedModel) -> tuple[bool, int]:
    """Sort idle models before busy ones, and those not used for long before others."""
    assert model.loaded
    return model.loaded.users > 0, model.loaded.last_used
