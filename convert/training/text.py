"""Training text: the model's own answers to prompts, because that is what it will have to draft.

Half of the answers are greedy, half are sampled at temperature 0.8. They stand in one file of int32: for each
answer the lengths of prompt and answer, then the ids of both. Answers are made in groups, and a group is
written at once; so a run that was killed goes on behind the last whole group, and gives the same file.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pass_edge import Engine, Sampling
from pass_edge.native.errors import SettingsError
from pass_edge.parallel import Parallel
from pass_edge.sampling import Sampler
from pass_edge.settings import context_settings

GROUP = 32
"""Answers made at once."""
_HEADER = 2

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answered:
    """A prompt and its answer: ``ids`` (n,) int32, of which the first ``prompt`` are the prompt."""

    ids: npt.NDArray[np.int32]
    prompt: int


def make_text(
    engine: Engine,
    prompts: Iterable[str],
    path: Path,
    *,
    count: int,
    max_tokens: int = 256,
    max_prompt: int = 640,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> list[Answered]:
    """``count`` answers of up to ``max_tokens`` tokens to the first ``prompts`` of up to ``max_prompt``,
    read from ``path`` as far as they are there, and added to it as they are made. Raises SettingsError if
    there are too few prompts."""
    done = len(read_text(path)) // GROUP * GROUP if path.exists() else 0
    _keep_records(path, done)
    rendered = (ids for prompt in prompts if len(ids := as_prompt(engine, prompt)) <= max_prompt)
    wanted = list(itertools.islice(rendered, count))
    if len(wanted) < count:
        raise SettingsError(f"there are {len(wanted)} prompts that can be used; {count} are asked for")
    settings = context_settings(engine.model, engine.settings, cells=1)
    with Parallel(engine.model, settings, GROUP, max_prompt + max_tokens) as parallel, path.open("ab") as file:
        for start in range(done, count, GROUP):
            progress(start, count)
            group = wanted[start : start + GROUP]
            samplers = [_sampler(start + i, seed) for i in range(len(group))]
            for ids, answer in zip(group, parallel.answer(group, samplers, max_tokens), strict=True):
                file.write(np.array([len(ids), len(answer), *ids, *answer], np.int32).tobytes())
            file.flush()
            os.fsync(file.fileno())
    progress(count, count)
    return read_text(path)[:count]


def as_prompt(engine: Engine, text: str) -> list[int]:
    """``text`` as a chat begins in this model, or as it stands if the model has no chat template."""
    if engine.model.chat_template() is None:
        return engine.tokenize(text)
    return engine.render([{"role": "user", "content": text}])


def _sampler(index: int, seed: int) -> Sampler:
    return Sampler(Sampling(temperature=0.0 if index % 2 == 0 else 0.8, seed=seed + index))


def read_text(path: Path) -> list[Answered]:
    """All whole records of ``path``."""
    return [Answered(ids, prompt) for ids, prompt in _records(np.fromfile(path, np.int32))]


def _records(numbers: npt.NDArray[np.int32]) -> Iterator[tuple[npt.NDArray[np.int32], int]]:
    start = 0
    while start + _HEADER <= len(numbers):
        prompt, answer = numbers[start : start + _HEADER].tolist()
        start += _HEADER + prompt + answer
        if start > len(numbers):
            return
        yield numbers[start - prompt - answer : start], prompt


def _keep_records(path: Path, count: int) -> None:
    if path.exists():
        kept: Sequence[Answered] = read_text(path)[:count]
        os.truncate(path, 4 * sum(_HEADER + len(record.ids) for record in kept))
