"""What the model thinks at every position of its training text, from llama.cpp itself: the hidden state behind
the last norm, and the most likely next tokens. The draft head learns from these alone.

Three files of rows, one for each position from a prompt's last token to its answer's end; a run that was
killed goes on behind the last text whose rows are whole.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pass_edge import Engine
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context
from pass_edge.settings import context_settings

from .text import Answered, Progress

LIKELY = 16
"""Next tokens kept at a position; what they leave of the probability is ignored."""
_ROWS = 128


@dataclass(frozen=True)
class States:
    """``hidden`` (n, n_embd) float16; ``likely`` (n, LIKELY) int32, the best first, with their
    ``logprobs`` (n, LIKELY) float16; ``tokens`` (n,) int32, the token at each position; ``starts``, (texts + 1,)
    int64: where the rows of each text begin, and the end."""

    hidden: npt.NDArray[np.float16]
    likely: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float16]
    tokens: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    def anchors(self, ahead: int) -> npt.NDArray[np.int64]:
        """The rows that have ``ahead`` more of the same text behind them."""
        ranges = zip(self.starts[:-1], self.starts[1:] - ahead, strict=True)
        return np.concatenate([np.arange(start, max(start, end)) for start, end in ranges])


def make_states(
    engine: Engine,
    texts: Sequence[Answered],
    folder: Path,
    *,
    progress: Progress = lambda done, total: None,
) -> States:
    """The states of ``texts``, read from ``folder`` as far as they are there, and added to it."""
    counts = [len(text.ids) - text.prompt + 1 for text in texts]
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    widths = {"hidden.f16": 2 * engine.model.n_embd, "likely.i32": 4 * LIKELY, "logprobs.f16": 2 * LIKELY}
    paths = {folder / name: width for name, width in widths.items()}
    done = _whole_texts(paths, starts)
    longest = max(len(text.ids) for text in texts)
    settings = replace(
        context_settings(engine.model, engine.settings, cells=longest),
        hidden=True,
        sequences=1,
        batch_size=_ROWS,
    )
    with Context(engine.model, settings) as context:
        files = [path.open("ab") for path in paths]
        for i in range(done, len(texts)):
            progress(i, len(texts))
            parts = zip(*_of_text(context, texts[i]), strict=True)
            for file, part in zip(files, parts, strict=True):
                file.write(np.concatenate(part).tobytes())
        for file in files:
            file.close()
    progress(len(texts), len(texts))
    hidden, likely, logprobs = (np.memmap(path, np.uint8, "r") for path in paths)
    n = int(starts[-1])
    return States(
        hidden.view(np.float16).reshape(-1, engine.model.n_embd)[:n],
        likely.view(np.int32).reshape(-1, LIKELY)[:n],
        logprobs.view(np.float16).reshape(-1, LIKELY)[:n],
        np.concatenate([text.ids[text.prompt - 1 :] for text in texts]),
        starts,
    )


def _whole_texts(paths: dict[Path, int], starts: npt.NDArray[np.int64]) -> int:
    sizes = [path.stat().st_size // width if path.exists() else 0 for path, width in paths.items()]
    done = int(np.searchsorted(starts, min(sizes), side="right")) - 1
    for path, width in paths.items():
        if path.exists():
            os.truncate(path, min(path.stat().st_size, int(starts[done]) * width))
    return done


def _of_text(
    context: Context, text: Answered
) -> list[tuple[npt.NDArray[np.float16], npt.NDArray[np.int32], npt.NDArray[np.float16]]]:
    context.clear()
    found = []
    for start in range(0, len(text.ids), _ROWS):
        part = text.ids[start : start + _ROWS]
        rows = replace(rows_of_sequence(start, len(part)), outputs=np.ones(len(part), np.bool_))
        context.decode_tokens(rows, part)
        first = max(0, text.prompt - 1 - start)
        if first < len(part):
            logits = torch.from_numpy(context.logits(len(part))[first:])
            best, likely = logits.topk(min(LIKELY, logits.shape[1]))
            logprobs = best - logits.logsumexp(1, keepdim=True)
            hidden = context.hidden(len(part))[first:].astype(np.float16)
            found.append((hidden, likely.int().numpy(), logprobs.half().numpy()))
    return found
