"""Prompts that ask for the text between a prefix and a suffix, in the tokens a model was trained with."""

from __future__ import annotations

from collections.abc import Sequence

from pass_edge.native.errors import SettingsError
from pass_edge.native.vocabulary import InfillTokens, Text, Vocabulary


def infill_tokens(vocabulary: Vocabulary) -> InfillTokens:
    """Return the tokens that ask ``vocabulary``'s model to fill in. Raises SettingsError if it has none."""
    if vocabulary.infill is None:
        raise SettingsError(
            "this model cannot fill in before a suffix: its vocabulary has no fill-in-the-middle tokens; "
            "leave the suffix out, or serve a model that was trained to fill in, such as Qwen2.5-Coder"
        )
    return vocabulary.infill


def infill_prompt(vocabulary: Vocabulary, prefix: Text | Sequence[int | Text], suffix: str) -> list[int]:
    """Return the token ids of a prompt whose answer stands between ``prefix`` and ``suffix``. Control tokens
    that are written out in these texts are text. Raises SettingsError if the model cannot fill in."""
    tokens = infill_tokens(vocabulary)
    before: list[int] = []
    for part in [prefix] if isinstance(prefix, Text) else prefix:
        before += vocabulary.tokenize(part).tolist() if isinstance(part, Text) else [int(part)]
    after = vocabulary.tokenize(suffix).tolist()
    start = [vocabulary.bos] if vocabulary.adds_bos else []
    return [*start, tokens.prefix, *before, tokens.suffix, *after, tokens.middle]
