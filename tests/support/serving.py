"""Start a server in this process, on a free port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pass_edge import Engine, Settings
from pass_edge.native.embedder import Embedder
from pass_edge.native.file_kind import Kind
from pass_edge.server.admission import AdmissionQueue
from pass_edge.server.model_pool import AnyEngine, ModelPool, ModelSource
from pass_edge.server.run import Server, listen
from pass_edge.server.settings import ServerSettings


class Running:
    """``url``; the ``pool`` of models, and the ``queue`` in front of the first of them."""

    def __init__(self, port: int, pool: ModelPool) -> None:
        self.port, self.pool = port, pool
        self.queue: AdmissionQueue = pool.models[0].queue
        self.url = f"http://127.0.0.1:{port}"

    def wait_until_idle(self, seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while any(model.queue.size for model in self.pool.models):
            assert time.monotonic() < end, "a request kept its place"
            time.sleep(0.005)


@contextmanager
def serving(
    engine: AnyEngine, *, name: str | None = None, queue: int = 16, **options: Any
) -> Iterator[Running]:
    """Serve an engine that is open, and stays so."""
    source = ModelSource(
        name or engine.model.path.stem,
        Kind.TEXT if isinstance(engine, Engine) else Kind.EMBEDDING,
        lambda: nullcontext(engine),
        parallel=engine.parallel if isinstance(engine, Engine) else 1,
    )
    with ModelPool([source], max_waiting=queue) as pool:
        pool.load_first()
        with serving_pool(pool, **options) as running:
            yield running


@contextmanager
def serving_pool(pool: ModelPool, *, send_buffer: int | None = None, **settings: Any) -> Iterator[Running]:
    """``send_buffer``: bytes that the system keeps for a client that does not read."""
    chosen = ServerSettings(port=0, **settings)
    listening = listen(chosen)
    if send_buffer:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server = Server(pool, chosen)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield Running(listening.getsockname()[1], pool)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def source(
    name: str, path: Path, n_bytes: int = 0, opens: Callable[[], object] = lambda: None
) -> ModelSource:
    """A tiny model that is not loaded; ``opens`` is called before it is."""

    def load() -> AnyEngine:
        opens()
        return (
            Embedder(path, threads=1) if "bert" in path.name else Engine(path, settings=Settings(threads=1))
        )

    kind = Kind.EMBEDDING if "bert" in path.name else Kind.TEXT
    return ModelSource(name, kind, load, given=str(path), n_bytes=n_bytes)
