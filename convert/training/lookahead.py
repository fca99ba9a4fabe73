"""Train lookahead embeddings, with a prefix, through the frozen model.

Only these rows learn, by distillation from the model itself: after a text's token at t, the target of row k's
output is the model's own distribution at t + 1 + k. A step draws its text and its anchors from the seed and
the step's number alone, and the whole state is saved in one file. So a run that was killed resumes with the
same result.
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

from .acceptance import AcceptanceBySource, lookahead_acceptance
from .frozen import FrozenModel, Text
from .loop import Run, StepProgress, digest

Floats = npt.NDArray[np.float32]
STATE = "lookahead.pt"
_CANDIDATES = 8192  # the loss is over the most frequent tokens in the answers
_DECAY = 0.8  # weight of a depth's loss, relative to the previous depth's


@dataclass(frozen=True)
class TrainedLookahead:
    """Trained rows: ``embeddings`` (L, n_embd) and ``prefix`` (P, n_embd), float32. ``losses``: (steps,) in
    nats. ``measured``: pairs of a step and the acceptance on the held-out texts; the last pair is of these
    rows."""

    embeddings: Floats
    prefix: Floats
    losses: Floats
    measured: tuple[tuple[int, AcceptanceBySource], ...]


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
    progress: StepProgress = lambda step, steps, loss, measured: None,
) -> TrainedLookahead:
    """Train ``count`` embeddings and ``prefix`` rows on ``texts``, and resume from the state in ``folder``.

    ``start``: (count, n_embd) initial embeddings, by default those of frequent tokens. ``anchors``: in each
    text and step. ``lr``: the learning rate, relative to the root mean square of the model's own rows. Under
    `accelerate launch`, each process has a text of its own in a step. Raises SettingsError, ModelError.
    """
    accelerator = Accelerator()
    frozen = model if isinstance(model, FrozenModel) else FrozenModel(model, accelerator.device)
    texts, held_out = (
        [text for text in source if _anchor_count(text, count) > 0] for source in (texts, held_out)
    )
    if not texts or not held_out:
        raise SettingsError(f"there are no answers of more than {count} tokens to train on, or to measure on")
    candidates = _frequent(texts, frozen)
    student = _Student.new(frozen, candidates, count, prefix, start, seed)
    scale = frozen.embed(candidates).square().mean().sqrt().item()
    settings = [count, prefix, anchors, lr, seed, measure_every, start is None or digest(start)]
    run = Run(
        folder / STATE,
        student,
        [([student.embeddings, student.prefix], lr * scale)],
        steps=steps,
        settings=[*settings, *(digest(*(text.ids for text in source)) for source in (texts, held_out))],
        accelerator=accelerator,
    )
    run.train(
        lambda number: (frozen, candidates, *_batch(texts, number, anchors, count, seed)),
        lambda: lookahead_acceptance(frozen, held_out, student.embeddings, student.prefix),
        measure_every,
        progress,
    )
    return student.trained(run)


class _Student(nn.Module):
    """The module that is trained."""

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
            rows[:count] = torch.from_numpy(start.copy())  # may be mapped from a file, read-only
        return cls(rows[:count].clone(), rows[count:].clone())

    def forward(
        self, frozen: FrozenModel, candidates: torch.Tensor, text: Text, anchors: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss: Kullback-Leibler divergence to the model's own distributions, in nats per
        draft."""
        reading = frozen.read(text.ids)
        drafted = anchors[:, None] + torch.arange(1, len(self.embeddings) + 1, device=anchors.device)
        with torch.no_grad():
            teacher = frozen.logits(reading.hidden[text.prompt_length :]).log_softmax(-1)[:, candidates]
        teacher = teacher[drafted - text.prompt_length]
        drafts = frozen.look_ahead(reading, anchors, self.embeddings, self.prefix)
        draft = frozen.logits(drafts, candidates).log_softmax(-1)
        divergence = (teacher.exp() * (teacher - draft)).sum(-1).mean(0)
        weights = _DECAY ** torch.arange(len(divergence), device=divergence.device)
        return (divergence * weights).sum() / weights.sum()

    def trained(self, run: Run) -> TrainedLookahead:
        def array(parameter: torch.Tensor) -> Floats:
            return parameter.detach().cpu().numpy().copy()

        losses = np.array(run.losses, np.float32)
        return TrainedLookahead(array(self.embeddings), array(self.prefix), losses, tuple(run.measured))


def _anchor_count(text: Text, count: int) -> int:
    """Return how many anchors a text has: from its prompt's last token to the last one that ``count`` tokens
    follow."""
    return len(text.ids) - count - (text.prompt_length - 1)


def _batch(
    texts: Sequence[Text], index: int, anchors: int, count: int, seed: int
) -> tuple[Text, torch.Tensor]:
    epoch, number = divmod(index, len(texts))
    text = texts[np.random.default_rng([seed, 1, epoch]).permutation(len(texts))[number]]
    drawn = np.random.default_rng([seed, 2, index]).permutation(_anchor_count(text, count))[:anchors]
    return text, torch.from_numpy(np.sort(drawn) + text.prompt_length - 1)


def _frequent(texts: Sequence[Text], frozen: FrozenModel) -> torch.Tensor:
    answers = np.concatenate([text.ids[text.prompt_length :] for text in texts])
    counts = np.bincount(answers, minlength=frozen.n_vocab)
    return torch.from_numpy(np.argsort(-counts, kind="stable")[:_CANDIDATES].copy()).to(frozen.device)
