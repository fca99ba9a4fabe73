"""Training text: the model's own answers to prompts, with its hidden states and its most likely tokens.

The answers are the model's own, because those are what it will have to draft. Half of them are greedy, half
are sampled. The prompts are read anyway, so they can be learned from too: they then count as the
beginnings of the answers, but for what all of them begin with. Many are made at a time, and each is written
when all before it are. A run that was killed resumes after the last complete one, and gives the same files:

text.i32      for each answer, the lengths of prompt and answer, then the ids of both
hidden.f16    for each token of an answer, the hidden state (output of the last norm) that it was chosen from
likely.i32    … the most likely tokens at its position, the best first
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
from pass_edge.decoding.batch_generator import BatchGenerator, Pass
from pass_edge.native.errors import SettingsError
from pass_edge.sampling.sampler import Sampler
from pass_edge.settings import context_settings

from .prompts import encode_prompt

ANSWERS_AT_ONCE = 32
N_TOP_TOKENS = 16
"""Tokens kept at each position; the probability of all others is ignored."""
_HEADER = 2
_FILES = _TEXT, _HIDDEN, _LIKELY, _LOGPROBS = "text.i32", "hidden.f16", "likely.i32", "logprobs.f16"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainingText:
    """A prompt and the model's answer: ``ids`` (n,) int32, the first ``prompt_length`` of them the prompt.
    For the m tokens of the answer: ``hidden`` (m, n_embd) float16; ``top_tokens`` (m, N_TOP_TOKENS) int32,
    the most likely tokens, the best first; ``logprobs`` (m, N_TOP_TOKENS) float16."""

    ids: npt.NDArray[np.int32]
    prompt_length: int
    hidden: npt.NDArray[np.float16]
    top_tokens: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float16]


def make_texts(
    engine: Engine,
    prompts: Iterable[str],
    folder: Path,
    *,
    count: int,
    max_tokens: int = 256,
    max_prompt: int = 640,
    temperatures: Sequence[float] = (0.0, 0.8),
    with_prompts: bool = False,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> list[TrainingText]:
    """Return ``count`` answers of up to ``max_tokens`` tokens to the first ``prompts`` of up to
    ``max_prompt`` tokens, at ``temperatures`` in turn. ``with_prompts``: a prompt's tokens count as its
    answer's, behind the beginning that all prompts share.

    Answers in ``folder`` are read, missing ones are made and added to it. ``progress``: called with the
    number of answers written and ``count``. Raises SettingsError if there are too few prompts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = _truncate(folder, engine.model.n_embd)
    encoded = (ids for prompt in prompts if len(ids := encode_prompt(engine, prompt)) <= max_prompt)
    chosen = list(itertools.islice(encoded, count))
    if len(chosen) < count:
        raise SettingsError(f"there are {len(chosen)} prompts that can be used; {count} are asked for")
    scored_from = max(1, _common_length(chosen)) if with_prompts else None
    missing = chosen[done:]
    samplers = [
        Sampler(Sampling(temperature=temperatures[i % len(temperatures)], seed=seed + i))
        for i in range(done, count)
    ]
    settings = context_settings(engine.model, engine.settings, cells=1)
    with BatchGenerator(engine.model, settings, ANSWERS_AT_ONCE, max_prompt + max_tokens) as generator:
        progress(done, count)
        passes = generator.answer(missing, samplers, max_tokens, scored_from)
        for text in _in_order(passes, missing, scored_from):
            _append(folder, text)
            done += 1
            progress(done, count)
    return read_texts(folder, engine.model.n_embd)[:count]


def _common_length(prompts: Sequence[list[int]]) -> int:
    """Return how many tokens all ``prompts`` begin with alike."""
    first, last = min(prompts), max(prompts)
    return next((i for i, pair in enumerate(zip(first, last, strict=False)) if len({*pair}) > 1), len(first))


def _in_order(
    passes: Iterable[Pass], prompts: Sequence[list[int]], scored_from: int | None
) -> Iterator[dict[str, bytes]]:
    """Yield the bytes to append to each file for the answer to each of ``prompts``, in their order."""
    answers: list[list[tuple[int, bytes, bytes, bytes]]] = [[] for _ in prompts]
    ended: set[int] = set()
    following = 0
    for step in passes:
        for which, row in zip(step.running, _rows_to_keep(step), strict=True):
            answers[which].append(row)
        ended.update(step.ended)
        while following in ended:
            yield _bytes_of(prompts[following][:scored_from], answers[following])
            answers[following].clear()
            following += 1


def _rows_to_keep(step: Pass) -> Iterator[tuple[int, bytes, bytes, bytes]]:
    """Yield for each token of a pass its id, and its rows in the other files."""
    logits = torch.from_numpy(step.logits)
    best, top_tokens = logits.topk(N_TOP_TOKENS)
    columns = (
        step.hidden.astype(np.float16),
        top_tokens.int().numpy(),
        (best - logits.logsumexp(1, keepdim=True)).half().numpy(),
    )
    for token, *rows in zip(step.tokens, *columns, strict=True):
        hidden, likely, logprobs = (row.tobytes() for row in rows)
        yield token, hidden, likely, logprobs


def _bytes_of(before: list[int], answer: list[tuple[int, bytes, bytes, bytes]]) -> dict[str, bytes]:
    tokens, *rows = zip(*answer, strict=True)
    text = np.array([len(before), len(tokens), *before, *tokens], np.int32)
    return dict(zip(_FILES, (text.tobytes(), *map(b"".join, rows)), strict=True))


def read_texts(folder: Path, n_embd: int) -> list[TrainingText]:
    """Return all complete answers in ``folder``. Arrays other than ``ids`` are memory-mapped."""
    ids_of_texts = list(_read_ids(folder / _TEXT))
    columns = [
        _map_rows(folder / name, dtype, width) for name, dtype, width in _columns(n_embd) if ids_of_texts
    ]
    starts = itertools.accumulate((len(ids) - prompt for ids, prompt in ids_of_texts), initial=0)
    texts = []
    for (ids, prompt_length), start in zip(ids_of_texts, starts, strict=False):
        end = start + len(ids) - prompt_length
        if all(end <= len(column) for column in columns):
            hidden, top_tokens, logprobs = (column[start:end] for column in columns)
            texts.append(TrainingText(ids, prompt_length, hidden, top_tokens, logprobs))
    return texts


def _map_rows(path: Path, dtype: type, width: int) -> npt.NDArray[Any]:
    """Map the complete rows of a file. A killed run may have left a part of a row at its end."""
    rows = path.stat().st_size // (np.dtype(dtype).itemsize * width)
    return np.memmap(path, dtype, "r", shape=(rows, width))


def _columns(n_embd: int) -> tuple[tuple[str, type, int], ...]:
    return (
        (_HIDDEN, np.float16, n_embd),
        (_LIKELY, np.int32, N_TOP_TOKENS),
        (_LOGPROBS, np.float16, N_TOP_TOKENS),
    )


def _read_ids(path: Path) -> Iterator[tuple[npt.NDArray[np.int32], int]]:
    """Yield the ids of each complete text in a file, and the length of its prompt."""
    numbers = np.fromfile(path, np.int32) if path.exists() else np.zeros(0, np.int32)
    start = 0
    while start + _HEADER <= len(numbers):
        prompt, answer = numbers[start : start + _HEADER].tolist()
        start += _HEADER + prompt + answer
        if start > len(numbers):
            return
        yield numbers[start - prompt - answer : start], prompt


def _append(folder: Path, appended: dict[str, bytes]) -> None:
    # the text last: an answer counts once it is there, and then all else is
    for name in reversed(appended):
        with (folder / name).open("ab") as file:
            file.write(appended[name])
            file.flush()
            os.fsync(file.fileno())


def _truncate(folder: Path, n_embd: int) -> int:
    """Truncate the files after the last complete answer; return how many answers remain."""
    texts = read_texts(folder, n_embd)
    rows = sum(len(text.ids) - text.prompt_length for text in texts)
    sizes = {name: rows * width * np.dtype(dtype).itemsize for name, dtype, width in _columns(n_embd)}
    sizes[_TEXT] = 4 * sum(_HEADER + len(text.ids) for text in texts)
    for name, size in sizes.items():
        if (folder / name).exists():
            os.truncate(folder / name, size)
    return len(texts)
