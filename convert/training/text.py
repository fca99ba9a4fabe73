"""Training text: the model's own answers to prompts, because that is what it will have to draft, and what the
model thought when it chose each of their tokens.

Half of the answers are greedy, half are sampled. They are made in groups, and a group is written at once; a
run that was killed goes on behind the last whole group, and gives the same files:

text.i32      for each answer, the lengths of prompt and answer, then the ids of both
hidden.f16    for each token of the answers, the hidden state behind the last norm that it was chosen from
likely.i32    … the most likely tokens in its place, the best first
logprobs.f16  … and their log-probabilities
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pass_edge import Engine, Sampling
from pass_edge.decoding.batch_generator import BatchGenerator
from pass_edge.native.errors import SettingsError
from pass_edge.sampling.sampler import Sampler
from pass_edge.settings import context_settings

from .prompts import as_prompt

GROUP = 32
"""Answers made at once."""
LIKELY = 16
"""Tokens kept in a place; what they leave of the probability is ignored."""
_HEADER = 2
_TEXT, _HIDDEN, _LIKELY, _LOGPROBS = "text.i32", "hidden.f16", "likely.i32", "logprobs.f16"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answered:
    """A prompt and its answer: ``ids`` (n,) int32, of which the first ``prompt`` are the prompt. For each of
    the m tokens of the answer: ``hidden`` (m, n_embd) float16, ``likely`` (m, LIKELY) int32 and ``logprobs``
    (m, LIKELY) float16."""

    ids: npt.NDArray[np.int32]
    prompt: int
    hidden: npt.NDArray[np.float16]
    likely: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float16]


def make_text(
    engine: Engine,
    prompts: Iterable[str],
    folder: Path,
    *,
    count: int,
    max_tokens: int = 256,
    max_prompt: int = 640,
    temperatures: Sequence[float] = (0.0, 0.8),
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> list[Answered]:
    """``count`` answers of up to ``max_tokens`` tokens to the first ``prompts`` of up to ``max_prompt``,
    at ``temperatures`` in turn, read from ``folder`` as far as they are there, and added to it as they are
    made. Raises SettingsError if there are too few prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    done = _cut_to_whole_groups(folder, engine.model.n_embd)
    rendered = (ids for prompt in prompts if len(ids := as_prompt(engine, prompt)) <= max_prompt)
    wanted = list(itertools.islice(rendered, count))
    if len(wanted) < count:
        raise SettingsError(f"there are {len(wanted)} prompts that can be used; {count} are asked for")
    settings = context_settings(engine.model, engine.settings, cells=1)
    with BatchGenerator(engine.model, settings, GROUP, max_prompt + max_tokens) as parallel:
        for start in range(done, count, GROUP):
            progress(start, count)
            group = wanted[start : start + GROUP]
            samplers = [
                Sampler(Sampling(temperature=temperatures[i % len(temperatures)], seed=seed + i))
                for i in range(start, start + len(group))
            ]
            _append(folder, _answered(parallel, group, samplers, max_tokens))
    progress(count, count)
    return read_text(folder, engine.model.n_embd)[:count]


def _answered(
    parallel: BatchGenerator, prompts: Sequence[list[int]], samplers: Sequence[Sampler], max_tokens: int
) -> dict[str, bytes]:
    """What is to be added to each file for a group of prompts."""
    answers: list[list[tuple[int, bytes, bytes, bytes]]] = [[] for _ in prompts]
    for step in parallel.answer(prompts, samplers, max_tokens):
        logits = torch.from_numpy(step.logits)
        best, likely = logits.topk(LIKELY)
        columns = (
            step.tokens,
            step.hidden.astype(np.float16),
            likely.int().numpy(),
            (best - logits.logsumexp(1, keepdim=True)).half().numpy(),
        )
        for which, token, *rows in zip(step.running, *columns, strict=True):
            answers[which].append((token, *(row.tobytes() for row in rows)))
    added = {_TEXT: b"", _HIDDEN: b"", _LIKELY: b"", _LOGPROBS: b""}
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens, *rows = zip(*answer, strict=True)
        text = np.array([len(prompt), len(tokens), *prompt, *tokens], np.int32)
        for name, data in zip(added, (text.tobytes(), *map(b"".join, rows)), strict=True):
            added[name] += data
    return added


def read_text(folder: Path, n_embd: int) -> list[Answered]:
    """All answers in ``folder`` that are whole; hidden states and the like are mapped, not loaded."""
    texts = list(_texts(folder / _TEXT))
    columns = [_rows(folder / name, dtype, width) for name, dtype, width in _columns(n_embd) if texts]
    starts = itertools.accumulate((len(ids) - prompt for ids, prompt in texts), initial=0)
    answered = []
    for (ids, prompt), start in zip(texts, starts, strict=False):
        end = start + len(ids) - prompt
        if all(end <= len(column) for column in columns):
            hidden, likely, logprobs = (column[start:end] for column in columns)
            answered.append(Answered(ids, prompt, hidden, likely, logprobs))
    return answered


def _rows(path: Path, dtype: type, width: int) -> npt.NDArray[Any]:
    """The whole rows of a file; a killed run may have left a part of one behind them."""
    rows = path.stat().st_size // (np.dtype(dtype).itemsize * width)
    return np.memmap(path, dtype, "r", shape=(rows, width))


def _columns(n_embd: int) -> tuple[tuple[str, type, int], ...]:
    return (_HIDDEN, np.float16, n_embd), (_LIKELY, np.int32, LIKELY), (_LOGPROBS, np.float16, LIKELY)


def _texts(path: Path) -> Iterator[tuple[npt.NDArray[np.int32], int]]:
    numbers = np.fromfile(path, np.int32) if path.exists() else np.zeros(0, np.int32)
    start = 0
    while start + _HEADER <= len(numbers):
        prompt, answer = numbers[start : start + _HEADER].tolist()
        start += _HEADER + prompt + answer
        if start > len(numbers):
            return
        yield numbers[start - prompt - answer : start], prompt


def _append(folder: Path, added: dict[str, bytes]) -> None:
    # the text last: an answer counts once it is there, and then all else is
    for name in reversed(added):
        with (folder / name).open("ab") as file:
            file.write(added[name])
            file.flush()
            os.fsync(file.fileno())


def _cut_to_whole_groups(folder: Path, n_embd: int) -> int:
    """Take away what a killed run left behind the last whole group; returns how many answers are left."""
    texts = list(_texts(folder / _TEXT))
    texts = texts[: len(texts) // GROUP * GROUP]
    rows = sum(len(ids) - prompt for ids, prompt in texts)
    sizes = {name: rows * width * np.dtype(dtype).itemsize for name, dtype, width in _columns(n_embd)}
    sizes[_TEXT] = 4 * sum(_HEADER + len(ids) for ids, _ in texts)
    for name, size in sizes.items():
        if (folder / name).exists():
            os.truncate(folder / name, size)
    return len(texts)
