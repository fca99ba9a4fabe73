"""Start a server in this process, on a free port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pass_edge import Engine
from pass_edge.server.admission import AdmissionQueue
from pass_edge.server.run import Server, listen
from pass_edge.server.settings import ServerSettings


class Running:
    """``url``, and the ``queue`` in front of the engine."""

    def __init__(self, port: int, queue: AdmissionQueue) -> None:
        self.port, self.queue = port, queue
        self.url = f"http://127.0.0.1:{port}"

    def wait_until_idle(self, seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while self.queue.size:
            assert time.monotonic() < end, "a request kept its place"
            time.sleep(0.005)


@contextmanager
def serving(engine: Engine, *, send_buffer: int | None = None, **settings: object) -> Iterator[Running]:
    """``send_buffer``: bytes that the system keeps for a client that does not read."""
    chosen = ServerSettings(port=0, **settings)  # type: ignore[arg-type]
    listening = listen(chosen)
    if send_buffer:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server = Server(engine, chosen)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield Running(listening.getsockname()[1], server.queue)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
