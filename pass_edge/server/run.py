"""Running the server until it is told to stop, and then until its answers have ended."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from sse_starlette.sse import AppStatus

from pass_edge import Engine
from pass_edge.native.errors import SettingsError

from .admission import AdmissionQueue
from .app import create_app
from .settings import ServerSettings


class Server(uvicorn.Server):
    """Stops gracefully: told to, it takes no more requests, and answers those that it has. Told again by
    Ctrl-C, it stops at once."""

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self._line = AdmissionQueue(settings.queue, engine.parallel)
        app = create_app(engine, settings, self._line)
        AppStatus.enable_automatic_graceful_drain = False  # which would cut the streams off
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                timeout_graceful_shutdown=int(settings.drain),
                server_header=False,
                lifespan="off",
                ws="none",
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._line.close()
        super().handle_exit(sig, frame)


def listen(settings: ServerSettings) -> socket.socket:
    """A socket at the address. Raises SettingsError if it cannot be had."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        # asyncio sends small packets at once (TCP_NODELAY) only where the protocol is named
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen()
    except OSError as error:
        raise SettingsError(
            f"{settings.host}:{settings.port} cannot be listened at: {error.strerror or error}"
        ) from error
    return listening


def serve(
    engine: Engine,
    settings: ServerSettings,
    listening: socket.socket,
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve whoever connects to ``listening`` until SIGINT or SIGTERM; ``ready`` is told the URL."""
    host, port = listening.getsockname()[:2]
    ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    # uvicorn raises the signal again once all is done: either of them is the end of a day's work, not an
    # error
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            Server(engine, settings).run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
