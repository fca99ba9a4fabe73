"""Train a toy model with an MTP layer, to measure drafts from such layers where no real model is at hand.

It has the shape of Qwen3.5 (gated delta nets with attention in every fourth layer, and one MTP layer), a few
million weights, and a token for each byte. Its text is the source of Python's standard library (PSF licence):

    python benchmarks/toy_mtp.py train toy.gguf --minutes 10
    python benchmarks/toy_mtp.py measure toy.gguf
    python benchmarks/toy_mtp.py random random-0.8B-hybrid.Q8_0.gguf

``random`` writes random weights in about the shape of Qwen3.5 0.8B, whose passes stock.py can measure.
``measure`` lets it continue files that it has not seen, and compares our schedules, and llama.cpp's server
(package `xllamacpp`) with its own drafts from these layers and from the text.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sysconfig
from functools import partial
from pathlib import Path
from typing import Any

from answers import CONTEXT, Answer, Job, engine_contender, rotated, table
from contender_process import ContenderProcess, Opened
from peers import open_server
from peers_report import spread

from pass_edge import Engine, Settings
from pass_edge.native.devices import default_threads

HELD_OUT = 10  # a file of so many is held out
PROMPT = 256  # tokens of a text that are given

SCHEDULES: dict[str, dict[str, Any]] = {
    "plain": {"schedule": "plain"},
    "no drafts": {"mtp": False, "ngrams": False},
    "n-grams": {"mtp": False},
    "MTP": {"ngrams": False},
    "both": {},
}
SERVERS = ("none", "draft-mtp", "ngram-mod")
"""Kinds of speculation of llama.cpp's server."""


def measure(path: Path, n_texts: int, n_tokens: int, threads: int) -> None:
    """Print the speeds of our schedules and of llama.cpp's server, and their ratios to plain decoding with
    the same library."""
    prompts = [list(text[:PROMPT]) for text in texts(held_out=True) if len(text) > 4 * PROMPT][:n_texts]
    job = Job(path, n_tokens, threads, temperature=0)
    opened = {name: partial(open_schedule, job, options) for name, options in SCHEDULES.items()}
    if importlib.util.find_spec("xllamacpp"):
        opened |= {f"server {kind}": partial(open_server, job, kind) for kind in SERVERS}
    contenders = {name: ContenderProcess(name, opening, prompts[0][:9]) for name, opening in opened.items()}
    answers: dict[str, list[Answer]] = {name: [] for name in contenders}
    for turn, prompt in enumerate(prompts):
        for name in rotated(list(contenders), turn):
            answers[name].append(contenders[name](prompt))
        said = {answers[name][-1].text for name in SCHEDULES}
        assert len(said) == 1, "drafts changed the text"
    rows = []
    for name, given in answers.items():
        base = "server none" if name.startswith("server") else "plain"
        speeds = [answer.tokens_per_second for answer in given]
        ratios = [
            a.tokens_per_second / b.tokens_per_second for a, b in zip(given, answers[base], strict=True)
        ]
        per_pass = statistics.mean(answer.tokens_per_pass or 1.0 for answer in given)
        rows.append([name, f"{statistics.median(speeds):.0f}", spread(ratios), f"{per_pass:.2f}"])
    print(table(["contender", "tokens/s", "of plain decoding with its library", "tokens/pass"], rows))


def open_schedule(job: Job, options: dict[str, Any]) -> Opened:
    """Open our engine with these settings."""
    settings = Settings(context_size=CONTEXT, threads=job.threads, **options)
    engine = Engine(job.model, lookahead=None, settings=settings)
    return engine_contender(engine, job), engine.notes


def texts(*, held_out: bool) -> list[bytes]:
    """The files of Python's standard library: to train on, or those held out."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [path.read_bytes() for i, path in enumerate(files) if (i % HELD_OUT == 0) == held_out]


def main() -> None:
    """Train, measure or write at random."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    training = actions.add_parser("train", help="train a model and write it")
    training.add_argument("path", type=Path)
    training.add_argument("--minutes", type=float, default=10)
    training.add_argument("--seed", type=int, default=0)
    untrained = actions.add_parser("random", help="write random weights in the shape of a real model")
    untrained.add_argument("path", type=Path)
    measuring = actions.add_parser("measure", help="compare schedules on it")
    measuring.add_argument("path", type=Path)
    measuring.add_argument("--texts", type=int, default=8)
    measuring.add_argument("--tokens", type=int, default=256)
    measuring.add_argument("--threads", type=int, default=default_threads())
    options = parser.parse_args()
    if options.action == "train":
        from toy_mtp_model import train, write  # torch, which the processes that measure need not load

        write(train(b"\n".join(texts(held_out=False)), options.minutes, options.seed), options.path)
    elif options.action == "random":
        from toy_mtp_model import LARGE, ToyModel, write

        write(ToyModel(LARGE), options.path)
    else:
        measure(options.path, options.texts, options.tokens, options.threads)


if __name__ == "__main__":
    main()
