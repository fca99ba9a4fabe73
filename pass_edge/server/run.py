"""Running the server until a signal stops it, and then until its answers have ended."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from sse_starlette.sse import AppStatus

from pass_edge.native.errors import SettingsError

from .app import create_app
from .model_pool import ModelPool
from .settings import ServerSettings


class Server(uvicorn.Server):
    """Stops gracefully: after a signal it refuses new requests and answers the admitted ones. A second Ctrl-C
    stops it at once."""

    def __init__(self, pool: ModelPool, settings: ServerSettings) -> None:
        self._pool = pool
        app = create_app(pool, settings)
        AppStatus.enable_automatic_graceful_drain = False  # it would cut the streams off
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
        self._pool.refuse_new()
        super().handle_exit(sig, frame)


def listen(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens at the address of ``settings``. Raises SettingsError if that fails."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        # asyncio sends small packets at once (TCP_NODELAY) only if the socket names its protocol
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen()
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        hint = "; --port takes another one, and --port 0 a free one" if is_taken else ""
        raise SettingsError(
            f"cannot listen at {settings.host}:{settings.port}: {error.strerror or error}{hint}"
        ) from error
    return listening


def serve(
    pool: ModelPool,
    settings: ServerSettings,
    listening: socket.socket,
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve the models of ``pool`` at the socket ``listening`` until SIGINT or SIGTERM; call ``ready`` with
    the URL. If a model is still being loaded then, end the process at once."""
    host, port = listening.getsockname()[:2]
    ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    # uvicorn raises the signal again when it has stopped; for us either signal is a normal end, not an error
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            Server(pool, settings).run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
    if pool.is_loading:  # llama.cpp cannot be interrupted, and a large model takes minutes
        sys.stderr.flush()
        os._exit(0)
