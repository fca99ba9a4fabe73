"""pass-edge serve: the model behind OpenAI's protocol."""

from __future__ import annotations

from typing import Any

import click

from pass_edge.commands.terminal.output import quiet

from .engine_options import engine_options, open_engine


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Any but loopback needs --api-key.")
@click.option("--port", type=int, default=8080, show_default=True, help="0 is any that is free.")
@click.option(
    "--api-key", envvar="PASS_EDGE_API_KEY", help="What clients must send. [env: PASS_EDGE_API_KEY]"
)
@click.option("--alias", "name", help="The model's name for clients. [default: the file's]")
@click.option(
    "--parallel",
    "-np",
    type=int,
    default=4,
    show_default=True,
    help="Requests answered side by side; each takes a KV cache of --ctx-size tokens.",
)
@click.option(
    "--queue", type=int, default=16, show_default=True, help="Requests that may wait for their turn."
)
@click.option("--time-limit", type=float, default=600, show_default=True, help="Seconds an answer may take.")
@click.option("--body-limit", type=float, default=4, show_default=True, help="MiB a request may have.")
@click.option(
    "--drain", type=float, default=30, show_default=True, help="Seconds to end answers in at the end."
)
@engine_options
def serve(body_limit: float, **options: Any) -> None:
    """Serve the model by OpenAI's protocol, on this machine.

    \b
    pass-edge serve
    curl http://127.0.0.1:8080/v1/chat/completions -H "Content-Type: application/json" \\
        -d '{"messages": [{"role": "user", "content": "Name three rivers."}]}'

    Clients change their base URL to http://127.0.0.1:8080/v1, and nothing else; without --api-key, any key
    will do. Several requests are answered side by side (--parallel), each as it would be alone, and further
    ones wait (--queue); the conversations answered last are not read again. Ctrl-C takes no more requests and
    ends when those it has are answered; a second one ends at once. docs/server.md has all endpoints and
    fields.
    """
    try:
        from pass_edge.server.run import listen
        from pass_edge.server.run import serve as run
        from pass_edge.server.settings import ServerSettings
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the server needs {error.name}, which is not installed: pip install 'pass-edge[serve]'"
        ) from error

    from pass_edge.native.process_memory import limit_malloc_arenas

    limit_malloc_arenas()  # each answer has a thread of its own
    names = ("host", "port", "api_key", "name", "queue", "time_limit", "drain")
    settings = ServerSettings(
        **{name: options[name] for name in names}, body_limit=int(body_limit * (1 << 20))
    )
    # an address that is taken is told at once; whoever connects early waits for the model
    with listen(settings) as listening, open_engine(options) as engine:
        run(
            engine,
            settings,
            listening,
            lambda url: quiet(f"{engine.model.path.name} at {url}/v1; Ctrl-C ends it"),
        )
