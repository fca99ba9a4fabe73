"""Compare our engine with the alternatives of a llama.cpp user, interleaved in one run.

    python benchmarks/peers.py --questions 5 --markdown peers.md --plot peers.png

Rivals: stock llama-cpp-python's `Llama` with llama.cpp's own kernels, plain and with its prompt lookup; and
llama.cpp's server, plain and with its own speculation (package `xllamacpp`, part of `pip install -e
'.[dev]'`). All get the same file, threads, prompt ids and token count. Each runs in a process of its own and
gets each question once, so no cache helps a rival or a later answer. Only decoding is timed. Greedy texts may
differ between libraries, whose kernels and KV caches differ, but should not within one. Ctrl-C reports the
answers so far.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from answers import (
    CONTEXT,
    Answer,
    Contender,
    Job,
    engine_contender,
    questions_by_category,
    rotated,
    stock_contender,
)
from contender_process import ContenderProcess, Opened
from peers_report import Entrant, Round, Run, plot, report
from rich.console import Console
from rich.progress import track

from pass_edge import Engine, Settings
from pass_edge.convert.training.prompts import encode_prompt
from pass_edge.models import default_model
from pass_edge.native.devices import can_offload, default_threads
from pass_edge.native.library import system_info
from pass_edge.settings import context_settings

OURS = ("plain", "two-pass", "fused", "auto")
# llama.cpp's own defaults, also used in its docs/speculative.md. They are set explicitly, so that the report
# is true.
# ngram-cache has no options but files of statistics, and drafts up to 8 tokens.
SPECULATION: Mapping[str, Mapping[str, float]] = {
    "ngram-simple": {"size_n": 12, "size_m": 48, "min_hits": 1},
    "ngram-mod": {"n_match": 24, "n_min": 48, "n_max": 64},
    "ngram-cache": {},
    "draft-simple": {"n_max": 3, "n_min": 0, "p_min": 0.0},
    "draft-mtp": {"n_max": 3, "n_min": 0, "p_min": 0.0},
}
SPINNING = 0.02  # of a core: an idle contender that uses more disturbs the others


# -- the contenders ---------------------------------------------------------------------------------


def our_entrants(job: Job, draft_model: Path | None) -> list[Entrant]:
    entrants = [
        Entrant(
            f"ours: {name}",
            "ours: plain",
            f"Engine(settings=Settings(schedule={name!r}))",
            partial(open_ours, job, name),
        )
        for name in OURS
    ]
    if draft_model:
        settings = f"Engine(settings=Settings(draft_model={draft_model.name!r}))"
        opening = partial(open_ours, job, "auto", draft_model)
        entrants.append(Entrant("ours: auto, draft model", "ours: plain", settings, opening))
    return entrants


def engine_of(job: Job, schedule: str, draft_model: Path | None = None) -> Engine:
    settings = Settings(schedule=schedule, threads=job.threads, context_size=CONTEXT, draft_model=draft_model)
    return Engine(job.model, settings=settings)


def cache_types(engine: Engine) -> tuple[str, str]:
    """Return the types of K and V in the cache of ``engine``."""
    settings = context_settings(engine.model, engine.settings, CONTEXT)
    return settings.cache_type_k, settings.cache_type_v


def open_ours(job: Job, schedule: str, draft_model: Path | None = None) -> Opened:
    engine = engine_of(job, schedule, draft_model)
    return engine_contender(engine, job), engine.notes


def stock_entrants(job: Job) -> list[Entrant]:
    lookup = 10 if can_offload() else 2  # as its README recommends
    plain = "llama_cpp.Llama, its defaults, llama.cpp's own kernels"
    with_lookup = f"with LlamaPromptLookupDecoding(max_ngram_size=2, num_pred_tokens={lookup})"
    return [
        Entrant("Llama", "Llama", plain, partial(open_stock, job)),
        Entrant("Llama lookup", "Llama", with_lookup, partial(open_stock, job, lookup)),
    ]


def open_stock(job: Job, lookup: int = 0) -> Opened:
    return stock_contender(job, lookup), ()


def server_entrants(job: Job, kinds: Iterable[str], draft_model: Path | None = None) -> list[Entrant]:
    """Return llama.cpp's server, plain and with each of ``kinds`` of SPECULATION."""
    types = job.server_cache
    cache = f"K in {types[0]}, V in {types[1]}, flash attention on, otherwise " if types else ""
    plain = f"llama.cpp's server (xllamacpp), {cache}its defaults, one slot"
    return [
        Entrant("server", "server", plain, partial(open_server, job)),
        *(
            Entrant(
                f"server {kind}",
                "server",
                f"spec-type {kind} {', '.join(f'{k} {v:g}' for k, v in SPECULATION[kind].items())}".strip(),
                partial(open_server, job, kind, draft_model),
            )
            for kind in kinds
        ),
    ]


def open_server(job: Job, kind: str = "none", draft_model: Path | None = None) -> Opened:
    """Open llama.cpp's server, without HTTP. It times its own decoding."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(job.model), CONTEXT, 1
    params.verbosity = -1
    if job.server_cache:
        params.cache_type_k, params.cache_type_v = (
            xllamacpp.ggml_type[f"GGML_TYPE_{name.upper()}"] for name in job.server_cache
        )
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    drafting = params.speculative
    for cpu in (params.cpuparams, params.cpuparams_batch, drafting.draft.cpuparams):
        cpu.n_threads = job.threads
    name = kind.replace("-", "_")
    drafting.types = [xllamacpp.common_speculative_type[f"COMMON_SPECULATIVE_TYPE_{name.upper()}"]]
    options: Any = drafting.draft if kind.startswith("draft-") else getattr(drafting, name, None)
    for key, value in SPECULATION.get(kind, {}).items():
        setattr(options, key, value)
    if kind == "draft-simple":
        options.mparams.path = str(draft_model)
    peer = xllamacpp.Server(params)
    options_of_sampling = ("temperature", "top_k", "top_p", "min_p", "seed")
    request: dict[str, Any] = {
        "n_predict": job.tokens + 1,  # the first belongs to the prompt
        "cache_prompt": False,
        **{option: getattr(job.sampling, option) for option in options_of_sampling},
    }

    def answer(ids: list[int]) -> Answer:
        reply = peer.handle_completions({"prompt": ids, **request})
        if "error" in reply:
            raise click.ClickException(f"server {kind}: {reply['error']['message']}")
        times, accepted = reply["timings"], reply["timings"].get("draft_n_accepted", 0)
        timed = times["predicted_n"] - 1  # its clock starts at the first token
        return Answer(
            1000 * timed / times["predicted_ms"],
            times["predicted_n"],
            reply["usage"]["prompt_tokens"],
            reply["choices"][0]["text"],
            timed / max(timed - accepted, 1),
        )

    return answer, ()


def slower_build() -> list[str]:
    """Return a note if the xllamacpp wheel, made for all machines, lacks features of our llama.cpp build."""
    import xllamacpp

    missing = ", ".join(sorted(enabled(system_info()) - enabled(xllamacpp.get_system_info())))
    note = (
        f"the server's build lacks {missing}, which the others use: compare only its speed relative to plain "
        "decoding of its own library, or build xllamacpp from source"
    )
    return [note] if missing else []


def enabled(info: str) -> set[str]:
    """Return the features that llama.cpp's system info lists as 1."""
    pairs = (part.split(":")[-1].split("=") for part in info.split("|") if "=" in part)
    return {name.strip() for name, value in pairs if value.strip() == "1"}


# -- the run ----------------------------------------------------------------------------------------


def open_all(entrants: list[Entrant], greeting: list[int]) -> tuple[dict[str, Contender], list[str]]:
    """Open and warm up all contenders. Return them by name, and notes for the report."""
    opened = {entrant.name: ContenderProcess(entrant.name, entrant.open, greeting) for entrant in entrants}
    notes = dict.fromkeys(f"{name.partition(':')[0]}: {n}" for name, one in opened.items() for n in one.notes)
    busiest = max(opened, key=lambda name: opened[name].idle)
    idle = opened[busiest].idle
    spins = "; **threads spin and disturb the others**" if idle > SPINNING else ""
    return dict(opened), [*notes, f"idle contenders used at most {idle:.1%} of a core ({busiest}){spins}"]


def answer_all(contenders: dict[str, Contender], prompts: list[tuple[str, list[int]]]) -> Iterator[Round]:
    """Have all contenders answer each of ``prompts`` (category, ids) in turn."""
    for turn, (category, ids) in enumerate(track(prompts, "answering", console=Console(stderr=True))):
        answers = {name: contenders[name](ids) for name in rotated(list(contenders), turn)}
        for name, answer in answers.items():
            if answer.prompt_tokens != len(ids):
                raise click.ClickException(
                    f"{name} read {answer.prompt_tokens} prompt tokens instead of {len(ids)}"
                )
        if all(answer.tokens_per_second for answer in answers.values()):  # an answer of one token has no rate
            yield Round(category, answers)


@click.command(help=__doc__)
@click.option("--model", type=click.Path(path_type=Path), help="A GGUF file; the default model if not given.")
@click.option(
    "--draft-model",
    type=click.Path(path_type=Path),
    help="For our schedule auto, and for the server's draft-simple.",
)
@click.option("--questions", default=1, show_default=True, help="From each of 13 categories; 0 for all.")
@click.option("--categories", type=int, hidden=True, help="Only the first n categories, for a trial.")
@click.option("--tokens", default=256, show_default=True, help="Tokens to decode for each.")
@click.option("--temp", default=0.0, show_default=True, help="Above 0, texts differ between libraries.")
@click.option("--threads", default=default_threads(), show_default=True)
@click.option(
    "--same-cache", is_flag=True, help="The server with K and V in our types: texts are more alike."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all answers to this file.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Plot the ratios to this file.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Append the report to this file.")
def main(
    model: Path | None,
    draft_model: Path | None,
    questions: int,
    categories: int | None,
    tokens: int,
    temp: float,
    threads: int,
    same_cache: bool,
    json_file: Path | None,
    plot_file: Path | None,
    markdown: Path | None,
) -> None:
    job = Job(model or default_model(), tokens, threads, temp)
    by_category = list(questions_by_category(questions).items())[:categories]
    with engine_of(job, "plain") as plain:
        prompts = [(c, encode_prompt(plain, q)) for c, qs in by_category for q in qs]
        greeting = encode_prompt(plain, "Hello")
        has_mtp = plain.model.n_mtp_layers > 0
        job = replace(job, server_cache=cache_types(plain) if same_cache else None)
    notes: list[str] = []
    entrants = [*stock_entrants(job), *our_entrants(job, draft_model)]
    if importlib.util.find_spec("xllamacpp"):
        given = {"draft-simple": draft_model is not None, "draft-mtp": has_mtp}
        kinds = [kind for kind in SPECULATION if given.get(kind, True)]
        entrants = server_entrants(job, kinds, draft_model) + entrants
        notes += slower_build()
    else:
        notes.append("llama.cpp's server is left out: xllamacpp is not installed (pip install xllamacpp)")
    rounds: list[Round] = []
    try:
        contenders, new_notes = open_all(entrants, greeting)
        notes += new_notes
        for answered in answer_all(contenders, prompts):
            rounds.append(answered)
    except KeyboardInterrupt:
        click.echo("Interrupted; the report has the answers so far.", err=True)
    if not rounds:
        raise click.ClickException("no question was answered by all contenders")
    run = Run(job, entrants, rounds, notes)
    click.echo(text := report(run))
    if markdown:
        with markdown.open("a") as file:
            file.write(text + "\n")
    if json_file:
        json_file.write_text(json.dumps({"report": text, "rounds": [asdict(r) for r in rounds]}, indent=1))
    if plot_file:
        plot(run, plot_file)


if __name__ == "__main__":
    main()
