"""Prompts that ask for the text between a prefix and a suffix, in the tokens a model was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pass_edge.native.errors import SettingsError
from pass_edge.native.vocabulary import InfillTokens, Text, Vocabulary

_REPOSITORY, _FILE = "repository\n", "file\n"
"""Names for what has none: models were trained with names."""
_SNIPPET = "\n\n--- snippet ---\n\n"
"""Before each text from elsewhere, for models that have no token for it."""


def infill_tokens(vocabulary: Vocabulary) -> InfillTokens:
    """Return the tokens that ask ``vocabulary``'s model to fill in. Raises SettingsError if it has none."""
    if vocabulary.infill is None:
        raise SettingsError(
            "this model cannot fill in before a suffix: its vocabulary has no fill-in-the-middle tokens; "
            "leave the suffix out, or serve a model that was trained to fill in, such as Qwen2.5-Coder"
        )
    return vocabulary.infill


def infill_prompt(
    vocabulary: Vocabulary,
    prefix: Text | Sequence[int | Text],
    suffix: str,
    extra: Sequence[Mapping[str, str]] = (),
    *,
    room: int | None = None,
) -> list[int]:
    """Return the token ids of a prompt whose answer stands between ``prefix`` and ``suffix``.

    ``extra``: further texts of the project, each with its ``text`` and ``filename``. ``room``: most tokens.
    If there are more, the beginnings of ``extra`` and ``prefix`` and the end of ``suffix`` are left out; the
    suffix keeps a quarter. Control tokens that are written out in these texts are text. Raises SettingsError
    if the model cannot fill in.
    """
    tokens = infill_tokens(vocabulary)
    before: list[int] = []
    for part in [prefix] if isinstance(prefix, Text) else prefix:
        before += vocabulary.tokenize(part).tolist() if isinstance(part, Text) else [int(part)]
    after = vocabulary.tokenize(suffix).tolist()
    context = _context(vocabulary, tokens, extra) if extra else []
    start = [vocabulary.bos] if vocabulary.adds_bos else []
    if room is not None:
        room -= len(start) + 3
        after = after[: max(room // 4, room - len(before), 0)]
        before = _last(before, room - len(after))
        context = _last(context, room - len(after) - len(before))
    return [*start, *context, tokens.prefix, *before, tokens.suffix, *after, tokens.middle]


def _context(vocabulary: Vocabulary, tokens: InfillTokens, extra: Sequence[Mapping[str, str]]) -> list[int]:
    """The tokens of texts of the project, up to where the file begins that is filled in."""

    def read(text: str) -> list[int]:
        return vocabulary.tokenize(text).tolist()

    context = [tokens.repository, *read(_REPOSITORY)] if tokens.repository >= 0 else []
    for each in extra:
        name = f"{each['filename']}\n" if each.get("filename") else _FILE
        context += [tokens.file, *read(name)] if tokens.file >= 0 else read(_SNIPPET)
        context += read(each["text"])
    return [*context, tokens.file, *read(_FILE)] if tokens.file >= 0 else context


def _last(tokens: list[int], count: int) -> list[int]:
    return tokens[max(0, len(tokens) - max(0, count)) :]
