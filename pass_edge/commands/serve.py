"""pass-edge serve: a model behind OpenAI's protocol."""

from __future__ import annotations

from typing import Any

import click

from pass_edge import Engine
from pass_edge.commands.terminal.output import quiet
from pass_edge.commands.terminal.standard_input import text
from pass_edge.native.embedder import Embedder, is_embedding_model
from pass_edge.native.process_memory import limit_malloc_arenas

from .engine_options import engine_options, open_engine, template_options, thinking_options


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen at; any but loopback needs --api-key.",
)
@click.option(
    "--port", type=int, default=8080, show_default=True, help="The port to listen at; 0 takes a free one."
)
@click.option(
    "--api-key",
    type=text,
    envvar="PASS_EDGE_API_KEY",
    help="The key that clients must send. [env: PASS_EDGE_API_KEY]",
)
@click.option("--alias", "name", type=text, help="The model's name for clients. [default: the file's name]")
@click.option(
    "--parallel",
    "-np",
    type=int,
    default=4,
    show_default=True,
    help="Requests answered at a time; each has a KV cache of --ctx-size tokens.",
)
@click.option(
    "--queue",
    type=int,
    default=16,
    show_default=True,
    help="Most requests that wait while others are answered; more are refused (429).",
)
@click.option("--time-limit", type=float, default=600, show_default=True, help="Most seconds of an answer.")
@click.option("--body-limit", type=float, default=4, show_default=True, help="Most MiB of a request.")
@click.option(
    "--drain",
    type=float,
    default=30,
    show_default=True,
    help="Seconds that answers have to end in after Ctrl-C.",
)
@thinking_options
@template_options
@engine_options
def serve(body_limit: float, **options: Any) -> None:
    """Serve a model by OpenAI's protocol.

    \b
    pass-edge serve
    curl http://127.0.0.1:8080/v1/chat/completions -H "Content-Type: application/json" \\
        -d '{"messages": [{"role": "user", "content": "Name three rivers."}]}'

    In a client, set the base URL to http://127.0.0.1:8080/v1; without --api-key, any key works. Several
    requests are answered at a time (--parallel), each with the text it would get alone; others wait
    (--queue). The latest conversations stay in the KV cache. Ctrl-C refuses new requests, answers those
    admitted, and ends; a second Ctrl-C ends at once. docs/server.md describes all endpoints and fields.
    """
    try:
        from pass_edge.server.run import listen
        from pass_edge.server.run import serve as run
        from pass_edge.server.settings import ServerSettings
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the server needs {error.name}, which is not installed: pip install 'pass-edge[serve]'"
        ) from error

    limit_malloc_arenas()  # each answer has a thread of its own
    names = ("host", "port", "api_key", "name", "queue", "time_limit", "drain")
    settings = ServerSettings(
        **{name: options[name] for name in names}, body_limit=int(body_limit * (1 << 20))
    )
    # listen first: a taken address is an error before the model loads, and early clients wait for it
    with listen(settings) as listening, _open(options) as engine:
        run(
            engine,
            settings,
            listening,
            lambda url: quiet(f"{engine.model.path.name} at {url}/v1; Ctrl-C ends it"),
        )


def _open(options: dict[str, Any]) -> Engine | Embedder:
    """Open the model: an embedding model has no engine, which drafts."""
    path = options["model"]
    if path is None or not is_embedding_model(path):
        return open_engine(options)
    return Embedder(
        path,
        context_size=options["context_size"],
        gpu_layers=options["gpu_layers"] or 0,
        threads=options["threads"],
    )
