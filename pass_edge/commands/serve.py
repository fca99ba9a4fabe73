"""pass-edge serve: models behind OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pass_edge import Settings, SettingsError
from pass_edge.commands.terminal.output import quiet
from pass_edge.commands.terminal.standard_input import text
from pass_edge.models import ModelFile
from pass_edge.native.available_memory import available_memory
from pass_edge.native.embedder import Embedder
from pass_edge.native.file_kind import Kind, check_generates, kind_of
from pass_edge.native.gguf_file import GgufFile
from pass_edge.native.memory_need import bytes_needed
from pass_edge.native.process_memory import limit_malloc_arenas
from pass_edge.settings import memory_needed

from .engine_options import open_engine, serving_options, settings_from, template_options, thinking_options
from .model_files import file_of

if TYPE_CHECKING:
    from pass_edge.server.model_pool import ModelSource


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
@click.option(
    "--alias",
    "aliases",
    type=text,
    multiple=True,
    help="The model's name for clients; with several models, one for each, in their order. "
    "[default: the file's name]",
)
@click.option(
    "--memory",
    type=click.FloatRange(0, min_open=True),
    metavar="GiB",
    help="Most memory that several models may take together. [default: what is free at the start]",
)
@click.option("--page/--no-page", default=True, show_default=True, help="Have a page to chat in, at /.")
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
    help="Most requests that wait for a model while others are answered; more are refused (429).",
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
@serving_options
def serve(models: tuple[str, ...], body_limit: float, **options: Any) -> None:
    """Serve a model by OpenAI's protocol, or several.

    \b
    pass-edge serve
    pass-edge serve -m one.gguf -m two.gguf
    curl http://127.0.0.1:8080/v1/chat/completions -H "Content-Type: application/json" \\
        -d '{"messages": [{"role": "user", "content": "Name three rivers."}]}'

    In a client, set the base URL to http://127.0.0.1:8080/v1; without --api-key, any key works. In a browser,
    http://127.0.0.1:8080 is a page to chat in. Several requests are answered at a time (--parallel), each
    with the text it would get alone; others wait (--queue). The latest conversations stay in the KV cache.
    Of several models, the one that a request names is loaded when it is needed, and the one used least
    recently is unloaded when memory is short. Ctrl-C refuses new requests, answers those admitted, and ends;
    a second Ctrl-C ends at once. docs/server.md describes all endpoints and fields.
    """
    try:
        from pass_edge.server.model_pool import ModelPool
        from pass_edge.server.run import listen
        from pass_edge.server.run import serve as run
        from pass_edge.server.settings import ServerSettings
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the server needs {error.name}, which is not installed: pip install 'pass-edge[serve]'"
        ) from error

    limit_malloc_arenas()  # each answer has a thread of its own
    names = ("host", "port", "api_key", "time_limit", "drain", "page")
    settings = ServerSettings(
        **{name: options[name] for name in names}, body_limit=int(body_limit * (1 << 20))
    )
    # listen first: a taken address is an error before the model loads, and early clients wait for it
    with (
        listen(settings) as listening,
        ModelPool(
            _sources([file_of(model) for model in models or (None,)], options),
            max_waiting=options["queue"],
            memory=int(options["memory"] * (1 << 30)) if options["memory"] else available_memory(),
            note=quiet if len(models) > 1 else lambda _: None,
        ) as pool,
    ):
        if len(models) <= 1:
            pool.load_first()
        served = ", ".join(model.name for model in pool.models)

        def ready(url: str) -> None:
            quiet(f"{served} at {url}/v1; Ctrl-C ends it")
            if settings.page:
                quiet(f"a page to chat in: {url}")

        run(pool, settings, listening, ready)


def _sources(models: Sequence[ModelFile], options: dict[str, Any]) -> list[ModelSource]:
    """Return ``models``, not loaded. Raises ModelError if one is no model that can be served,
    SettingsError if an option does not fit several models."""
    names = options["aliases"] or tuple(model.name for model in models)
    if len(names) != len(models):
        raise SettingsError(
            f"there are {len(names)} names (--alias) and {len(models)} models; name each model, or none"
        )
    if len(models) > 1 and (options["draft_model"] or options["lookahead"] not in ("auto", "none")):
        raise SettingsError(
            "a lookahead file and a draft model are made for one model; with several, leave --lookahead and "
            "--draft-model out, and put each lookahead file beside its model"
        )
    return [_source(model, name, options) for model, name in zip(models, names, strict=True)]


def _source(model: ModelFile, name: str, options: dict[str, Any]) -> ModelSource:
    from pass_edge.server.model_pool import ModelSource

    settings, path = settings_from(options), model.path
    with GgufFile(path) as file:
        if kind_of(file) is Kind.EMBEDDING:
            needed = bytes_needed(path, cells=0)
            return ModelSource(
                name, Kind.EMBEDDING, lambda: _embedder(path, settings), str(path), n_bytes=needed
            )
        check_generates(file)
    return ModelSource(
        name,
        Kind.TEXT,
        lambda: open_engine({**options, "model": model}),
        given=str(path),
        parallel=settings.parallel,
        n_bytes=memory_needed(settings, path),
    )


def _embedder(path: Path, settings: Settings) -> Embedder:
    return Embedder(
        path,
        context_size=settings.context_size,
        gpu_layers=settings.gpu_layers or 0,
        threads=settings.threads,
    )
