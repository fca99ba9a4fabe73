"""Lookahead embeddings, and with them a prefix, learnt through the frozen model.

Only they learn, and only from what the model itself says: behind a text's token at t, row k's output is to
be the model's own distribution at t + 1 + k. A step draws a text and anchors in its answer from the seed and
the step's number alone, and all that was learnt is saved in one file: so a run that was killed goes on as if
it had not been.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import nn

from pass_edge.native.errors import SettingsError

from .acceptance import Measured, acceptance
from .frozen import FrozenModel, Text
from .loop import Progress, Run, digest

Floats = npt.NDArray[np.float32]
STATE = "lookahead.pt"
_CANDIDATES = 8192  # tokens that a draft is trained among: the most frequent in the answers
_DECAY = 0.8  # what a depth's loss weighs against that of the depth before


@dataclass(frozen=True)
class Trained:
    """What was learnt: ``embeddings`` (L, n_embd); ``prefix`` (P, n_embd); float32. ``losses``: (steps,)
    nats. ``measured``: (step, acceptance on the held-out texts), the last of them of what is here."""

    embeddings: Floats
    prefix: Floats
    losses: Floats
    measured: tuple[tuple[int, Measured], ...]


def train_lookahead(
    model: str | Path | FrozenModel,
    texts: Sequence[Text],
    held_out: Sequence[Text],
    folder: Path,
    *,
    count: int = 4,
    prefix: int = 0,
    start: Floats | None = None,
    steps: int,
    anchors: int = 128,
    lr: float = 0.02,
    seed: int = 0,
    measure_every: int = 500,
    progress: Progress = lambda step, steps, loss, measured: None,
) -> Trained:
    """Train ``count`` embeddings and ``prefix`` rows on ``texts``, going on from what ``folder`` holds.
    ``start``: (count, n_embd) embeddings to begin with, else those of frequent tokens. ``anchors``: in each
    text and step. ``lr``: of the rows, in units of the size of the model's own. Under `accelerate launch`
    every process has its own text at a step. Raises SettingsError, ModelError."""
    accelerator = Accelerator()
    frozen = model if isinstance(model, FrozenModel) else FrozenModel(model, accelerator.device)
    texts, held_out = ([text for text in some if _room(text, count) > 0] for some in (texts, held_out))
    if not texts or not held_out:
        raise SettingsError(f"there are no answers of more than {count} tokens to train on, or to measure on")
    candidates = _frequent(texts, frozen)
    student = _Student.new(frozen, candidates, count, prefix, start, seed)
    size = frozen.embed(candidates).square().mean().sqrt().item()
    asked = [count, prefix, anchors, lr, seed, measure_every, start is None or digest(start)]
    run = Run(
        folder / STATE,
        student,
        [([student.embeddings, student.prefix], lr * size)],
        steps=steps,
        asked=[*asked, *(digest(*(text.ids for text in some)) for some in (texts, held_out))],
        accelerator=accelerator,
    )
    run.go(
        lambda number: (frozen, candidates, *_batch(texts, number, anchors, count, seed)),
        lambda: acceptance(frozen, held_out, student.embeddings, student.prefix),
        measure_every,
        progress,
    )
    return student.trained(run)


class _Student(nn.Module):
    """All that learns."""

    def __init__(self, embeddings: torch.Tensor, prefix: torch.Tensor) -> None:
        super().__init__()
        self.embeddings, self.prefix = nn.Parameter(embeddings), nn.Parameter(prefix)

    @classmethod
    def new(
        cls,
        frozen: FrozenModel,
        candidates: torch.Tensor,
        count: int,
        prefix: int,
        start: Floats | None,
        seed: int,
    ) -> _Student:
        if start is not None and start.shape != (count, frozen.n_embd):
            raise SettingsError(
                f"the embeddings to start from are {start.shape}, not {(count, frozen.n_embd)}"
            )
        drawn = np.random.default_rng([seed, 0]).integers(min(len(candidates), 512), size=count + prefix)
        rows = frozen.embed(candidates[torch.from_numpy(drawn).to(candidates.device)]).clone()
        if start is not None:
            rows[:count] = torch.from_numpy(start.copy())  # a file may be mapped read-only
        return cls(rows[:count].clone(), rows[count:].clone())

    def forward(
        self, frozen: FrozenModel, candidates: torch.Tensor, text: Text, anchors: torch.Tensor
    ) -> torch.Tensor:
        """The loss: Kullback-Leibler divergence to the model's own distributions, nats a draft."""
        reading = frozen.read(text.ids)
        drafted = anchors[:, None] + torch.arange(1, len(self.embeddings) + 1, device=anchors.device)
        with torch.no_grad():
            teacher = frozen.logits(reading.hidden[text.prompt :]).log_softmax(-1)[:, candidates]
        teacher = teacher[drafted - text.prompt]
        drafts = frozen.look_ahead(reading, anchors, self.embeddings, self.prefix)
        draft = frozen.logits(drafts, candidates).log_softmax(-1)
        divergence = (teacher.exp() * (teacher - draft)).sum(-1).mean(0)
        weights = _DECAY ** torch.arange(len(divergence), device=divergence.device)
        return (divergence * weights).sum() / weights.sum()

    def trained(self, run: Run) -> Trained:
        def array(parameter: torch.Tensor) -> Floats:
            return parameter.detach().cpu().numpy().copy()

        losses = np.array(run.losses, np.float32)
        return Trained(array(self.embeddings), array(self.prefix), losses, tuple(run.measured))


def _room(text: Text, count: int) -> int:
    """How many anchors a text has: its prompt's last token, to the last with ``count`` tokens behind it."""
    return len(text.ids) - count - (text.prompt - 1)


def _batch(
    texts: Sequence[Text], index: int, anchors: int, count: int, seed: int
) -> tuple[Text, torch.Tensor]:
    epoch, place = divmod(index, len(texts))
    text = texts[np.random.default_rng([seed, 1, epoch]).permutation(len(texts))[place]]
    room = _room(text, count)
    drawn = np.random.default_rng([seed, 2, index]).permutation(room)[:anchors]
    return text, torch.from_numpy(np.sort(drawn) + text.prompt - 1)


def _frequent(texts: Sequence[Text], frozen: FrozenModel) -> torch.Tensor:
    answers = np.concatenate([text.ids[text.prompt :] for text in texts])
    counts = np.bincount(answers, minlength=frozen.n_vocab)
    return torch.from_numpy(np.argsort(-counts, kind="stable")[:_CANDIDATES].copy()).to(frozen.device)
