"""Outputs of trained lookahead tokens at many positions of the training text, computed once and saved.

They are in one file of float16 rows, whose name has a hash of the embeddings. A run that was killed resumes
after the last text whose rows are complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from .frozen import FrozenModel
from .heads import Anchors
from .loop import digest
from .text import Progress, TrainingText

ANCHORS_PER_TEXT = 112
FIRST_TOKENS = 208
"""Anchors are drawn among the first tokens of an answer: later on, greedy answers repeat themselves."""
_SEED = 7  # the same anchors for every training


def make_outputs(
    load_model: Callable[[], FrozenModel],
    texts: Sequence[TrainingText],
    embeddings: npt.NDArray[np.float32],
    prefix: npt.NDArray[np.float32],
    folder: Path,
    *,
    depth: int,
    progress: Progress = lambda done, total: None,
) -> Anchors:
    """Return anchors with the outputs of lookahead groups of ``embeddings`` (L, n_embd) after them.

    Outputs in ``folder`` are read, missing ones are computed and added to it. Only the first ``depth`` tokens
    of a group are run, because later ones do not change their outputs. ``load_model``: called only if outputs
    are missing.
    """
    positions = [_positions(text, len(embeddings), i) for i, text in enumerate(texts)]
    embeddings = embeddings[:depth]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"outputs-{digest(embeddings, prefix, *(text.ids for text in texts))[:16]}.f16"
    size = 2 * embeddings.size
    ends = np.cumsum([len(each) for each in positions])
    saved = path.stat().st_size // size if path.exists() else 0
    done = int(np.searchsorted(ends, saved, side="right"))
    if path.exists():
        os.truncate(path, int(ends[done - 1]) * size if done else 0)
    if done < len(texts):
        model = load_model()
        rows = [torch.from_numpy(array).to(model.device) for array in (embeddings, prefix)]
        with path.open("ab") as file, torch.no_grad():
            for i in range(done, len(texts)):
                progress(i, len(texts))
                anchors = torch.from_numpy(positions[i]).to(model.device) + texts[i].prompt_length - 1
                if len(anchors):
                    states = model.look_ahead(model.read(texts[i].ids), anchors, *rows)
                    file.write(states.cpu().numpy().astype(np.float16).tobytes())
    progress(len(texts), len(texts))
    outputs = np.fromfile(path, np.float16).reshape(-1, *embeddings.shape)
    empty = np.zeros((0, embeddings.shape[1]), np.float16)
    at_anchors = (text.hidden[each] for text, each in zip(texts, positions, strict=True))
    hidden = np.concatenate([empty, *at_anchors])
    return Anchors(texts, positions, np.concatenate([hidden[:, None], outputs], 1), len(embeddings))


def _positions(text: TrainingText, count: int, index: int) -> npt.NDArray[np.int64]:
    available = max(0, min(FIRST_TOKENS, len(text.top_tokens) - count))
    return np.sort(np.random.default_rng([_SEED, index]).permutation(available)[:ANCHORS_PER_TEXT])
