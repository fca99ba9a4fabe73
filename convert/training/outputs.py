"""What trained lookahead tokens say behind many places of the training text: made once, and kept.

One file of float16 rows, named after the embeddings; a run that was killed goes on behind the last text whose
rows are whole.
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
from .text import Answered, Progress

PLACES = 112
"""Of each text, drawn among the first of its answer: later on, greedy answers repeat themselves."""
FIRST = 208
_SEED = 7  # the same places whatever is learnt from them


def make_outputs(
    frozen: Callable[[], FrozenModel],
    texts: Sequence[Answered],
    embeddings: npt.NDArray[np.float32],
    prefix: npt.NDArray[np.float32],
    folder: Path,
    *,
    depth: int,
    progress: Progress = lambda done, total: None,
) -> Anchors:
    """Anchors with the outputs of lookahead groups of ``embeddings`` (L, n_embd) behind them, read from
    ``folder`` as far as they are there, and added to it. Of each group, the first ``depth`` are run: those
    behind them change nothing. ``frozen`` is only called if some are missing."""
    places = [_places(text, len(embeddings), i) for i, text in enumerate(texts)]
    embeddings = embeddings[:depth]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"outputs-{digest(embeddings, prefix, *(text.ids for text in texts))[:16]}.f16"
    size = 2 * embeddings.size
    ends = np.cumsum([len(some) for some in places])
    there = path.stat().st_size // size if path.exists() else 0
    done = int(np.searchsorted(ends, there, side="right"))
    if path.exists():
        os.truncate(path, int(ends[done - 1]) * size if done else 0)
    if done < len(texts):
        model = frozen()
        rows = [torch.from_numpy(array).to(model.device) for array in (embeddings, prefix)]
        with path.open("ab") as file, torch.no_grad():
            for i in range(done, len(texts)):
                progress(i, len(texts))
                anchors = torch.from_numpy(places[i]).to(model.device) + texts[i].prompt - 1
                if len(anchors):
                    states = model.look_ahead(model.read(texts[i].ids), anchors, *rows)
                    file.write(states.cpu().numpy().astype(np.float16).tobytes())
    progress(len(texts), len(texts))
    outputs = np.fromfile(path, np.float16).reshape(-1, *embeddings.shape)
    none = np.zeros((0, embeddings.shape[1]), np.float16)
    hidden = np.concatenate([none, *(text.hidden[some] for text, some in zip(texts, places, strict=True))])
    return Anchors(texts, places, np.concatenate([hidden[:, None], outputs], 1), len(embeddings))


def _places(text: Answered, count: int, index: int) -> npt.NDArray[np.int64]:
    room = max(0, min(FIRST, len(text.likely) - count))
    return np.sort(np.random.default_rng([_SEED, index]).permutation(room)[:PLACES])
