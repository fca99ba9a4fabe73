"""What the speed benchmarks share: the questions, who answers them, and an answer's measures.

A *contender* takes a prompt's token ids, answers, and tells how fast it decoded. Only decoding is timed:
a rate is that of the passes after the prompt, over the tokens that were really made.
"""

from __future__ import annotations

import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
from llama_cpp import Llama
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from pass_edge import Engine, Sampling
from pass_edge.native.compute import compute

PROMPTS = Path(__file__).parent / "prompts" / "spec_bench_dev.jsonl"
CONTEXT = 4096


@dataclass(frozen=True)
class Job:
    """What every contender is told alike. ``server_cache``: the types that llama.cpp's server keeps K and V
    in; its own if None. In those that our engine takes, greedy texts are more often alike."""

    model: Path
    tokens: int
    threads: int
    temperature: float
    server_cache: tuple[str, str] | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, seed=1)


@dataclass(frozen=True)
class Answer:
    """One timed answer. ``tokens`` counts the end token. ``host_share``: part of the time spent outside
    llama.cpp. None where it is not known. ``acceptance``: of what was drafted, by depth."""

    tokens_per_second: float
    tokens: int
    prompt_tokens: int
    text: str
    tokens_per_pass: float | None = 1.0
    host_share: float | None = None
    acceptance: tuple[float, ...] = ()


Contender = Callable[[list[int]], Answer]


def questions_by_category(count: int) -> dict[str, list[str]]:
    """The first ``count`` questions of each category of the dev prompts; 0 means all."""
    chosen: dict[str, list[str]] = defaultdict(list)
    for line in PROMPTS.read_text().splitlines():
        question = json.loads(line)
        if not count or len(chosen[question["category"]]) < count:
            chosen[question["category"]].append(question["turns"][0])
    return chosen


def code_questions(count: int) -> list[str]:
    """The first ``count`` of the code questions."""
    lines = (PROMPTS.parent / "code_dev.jsonl").read_text().splitlines()[:count]
    return [json.loads(line)["turns"][0] for line in lines]


def rotated(names: list[str], turn: int) -> list[str]:
    """``names`` in the order of this turn: nobody always goes first."""
    first = turn % len(names)
    return names[first:] + names[:first]


def ours(engine: Engine, job: Job) -> Contender:
    def answer(ids: list[int]) -> Answer:
        done = engine.stream(ids, sampling=job.sampling, max_tokens=job.tokens).run()
        stats = done.stats
        return Answer(
            stats.tokens_per_second,
            stats.tokens,
            stats.prompt_tokens,
            done.text,
            stats.tokens_per_pass,
            1 - stats.model_seconds / stats.seconds,
            tuple(stats.acceptance),
        )

    return answer


def llama(job: Job, lookup: int = 0) -> Contender:
    """llama-cpp-python's own loop; ``lookup``: tokens that its prompt lookup drafts."""
    sampling = job.sampling
    peer = Llama(
        str(job.model),
        n_ctx=CONTEXT,
        n_threads=job.threads,
        n_threads_batch=job.threads,
        draft_model=LlamaPromptLookupDecoding(num_pred_tokens=lookup) if lookup else None,
        # a draft model keeps every row of logits, but the place for them is made by this alone
        logits_all=bool(lookup),
        seed=sampling.seed,
        verbose=False,
    )

    vocabulary = llama_cpp.llama_model_get_vocab(peer.model)

    def answered(ids: list[int]) -> Answer:
        made: list[int] = []
        began, prompt_tokens = 0.0, 0
        for token in peer.generate(
            ids, temp=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p
        ):
            if not made:  # the first token belongs to the prompt
                began, prompt_tokens = time.perf_counter(), peer.n_tokens
            made.append(token)
            if len(made) > job.tokens or llama_cpp.llama_vocab_is_eog(vocabulary, token):
                break
        rate = (len(made) - 1) / (time.perf_counter() - began)
        text = peer.detokenize(made[: job.tokens]).decode(errors="replace")
        return Answer(rate, len(made), prompt_tokens, text, tokens_per_pass=None if lookup else 1.0)

    # where ours compute: two threads of a process that do would make both slow
    return lambda ids: compute(lambda: answered(ids))


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown; all but the first column are numbers."""
    return "\n".join(map(line, [head, ["---", *["---:"] * (len(head) - 1)], *rows]))


def line(cells: list[str]) -> str:
    """One of a table, for those that tell their lines as they come."""
    return f"| {' | '.join(cells)} |"
