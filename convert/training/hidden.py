"""A draft head on the model's own hidden states: it learns from what was kept of the training text alone.

From the state that a token was chosen from, and that token, the head makes the state that the next one would
be chosen from, and so on for a few tokens; at each, the model's output matrix is to say what the model said.
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

from pass_edge.native.draft_head import HeadWeights, output_rows
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import SettingsError

from .acceptance import Measured, Shares, rank
from .device import fastest
from .head import DraftHead
from .loop import Progress, Run, digest
from .text import Answered

STATE = "hidden.pt"
NAME = "hidden head"
_MEASURED_AT_ONCE = 512


@dataclass(frozen=True)
class TrainedHead:
    """What was learnt: ``weights``; ``candidates`` (m,) int32, ascending, the tokens it learnt to score;
    ``losses``: (steps,) nats; ``measured``: pairs of a step and the acceptance on the held-out texts."""

    weights: HeadWeights
    candidates: npt.NDArray[np.int32]
    losses: npt.NDArray[np.float32]
    measured: tuple[tuple[int, Measured], ...]


def train_hidden_head(
    model: Path,
    texts: Sequence[Answered],
    held_out: Sequence[Answered],
    folder: Path,
    *,
    width: int = 1024,
    depth: int = 4,
    candidates: int = 8192,
    steps: int,
    anchors: int = 256,
    lr: float = 1e-3,
    seed: int = 0,
    measure_every: int = 500,
    progress: Progress = lambda step, steps, loss, measured: None,
) -> TrainedHead:
    """Train a head of ``width`` to draft ``depth`` tokens among the ``candidates`` likeliest in ``texts``,
    going on from what ``folder`` holds. ``anchors``: in each step. Raises SettingsError, ModelError."""
    accelerator = Accelerator()
    seen, unseen = _Positions(texts, depth), _Positions(held_out, depth)
    if not len(seen) or not len(unseen):
        raise SettingsError(f"there are no answers of more than {depth} tokens to train on, or to measure on")
    chosen = _likeliest(seen, candidates)
    embeddings = TokenEmbeddings(model)
    vocabulary = _Vocabulary(chosen, torch.from_numpy(output_rows(model, chosen)), accelerator.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = _Student(DraftHead(embeddings.width, width))
    run = Run(
        folder / STATE,
        student,
        [(list(student.parameters()), lr)],
        steps=steps,
        asked=[width, depth, candidates, anchors, lr, seed, measure_every, seen.digest, unseen.digest],
        accelerator=accelerator,
    )

    def batch(positions: _Positions, rows: npt.NDArray[np.int64]) -> _Batch:
        return positions.batch(rows, embeddings, accelerator.device)

    def drawn(number: int) -> tuple[_Vocabulary, _Batch]:
        rng = np.random.default_rng([seed, number])
        return vocabulary, batch(seen, rng.choice(seen.anchors, anchors))

    def measure() -> Measured:
        parts = np.array_split(unseen.anchors, -(-len(unseen) // _MEASURED_AT_ONCE))
        ranks = torch.cat([student.ranks(vocabulary, batch(unseen, rows)) for rows in parts])
        return {NAME: Shares.of(ranks)}

    run.go(drawn, measure, measure_every, progress)
    losses = np.array(run.losses, np.float32)
    return TrainedHead(student.head.weights(), chosen, losses, tuple(run.measured))


@dataclass(frozen=True)
class _Batch:
    """``hidden`` (B, n_embd); and at each of D depths ``embeddings`` (D, B, n_embd) of the tokens before the
    draft, and what the model found ``likely`` (D, B, k) in its place, with ``probabilities`` (D, B, k)."""

    hidden: torch.Tensor
    embeddings: torch.Tensor
    likely: torch.Tensor
    probabilities: torch.Tensor


class _Positions:
    """All tokens of the answers in some texts, numbered, and the *anchors* among them: those that have
    ``depth`` tokens behind them."""

    def __init__(self, texts: Sequence[Answered], depth: int) -> None:
        self._depth = depth
        answers = [text.ids[text.prompt :] for text in texts]
        lengths = np.array([len(answer) for answer in answers], np.int64)
        starts = np.cumsum(lengths) - lengths
        anchors = [
            np.arange(start, start + max(0, length - depth))
            for start, length in zip(starts, lengths, strict=True)
        ]
        self.anchors = np.concatenate([np.zeros(0, np.int64), *anchors])
        self._tokens = np.concatenate([np.zeros(0, np.int32), *answers])
        self._hidden = np.concatenate([text.hidden for text in texts]) if texts else np.zeros(0)
        self.likely = np.concatenate([text.likely for text in texts]) if texts else np.zeros(0)
        self.probabilities = np.exp(
            np.concatenate([text.logprobs for text in texts]).astype(np.float32) if texts else np.zeros(0)
        )
        self.digest = digest(self._tokens, lengths)

    def __len__(self) -> int:
        return len(self.anchors)

    def batch(self, rows: npt.NDArray[np.int64], embeddings: TokenEmbeddings, device: torch.device) -> _Batch:
        before = np.stack([self._tokens[rows + k] for k in range(self._depth)])
        drafted = np.stack([rows + k for k in range(1, self._depth + 1)])
        known = embeddings.rows(before.reshape(-1)).reshape(*before.shape, -1)
        arrays = (
            self._hidden[rows].astype(np.float32),
            known,
            self.likely[drafted].astype(np.int64),
            self.probabilities[drafted],
        )
        return _Batch(*(torch.from_numpy(array).to(device) for array in arrays))


class _Vocabulary:
    """The candidates, their rows of the output matrix, and for every token its place among them or -1."""

    def __init__(self, tokens: npt.NDArray[np.int32], rows: torch.Tensor, device: torch.device) -> None:
        self._dtype = fastest(device)
        self._rows = rows.to(device, self._dtype)
        places = torch.full((int(tokens.max()) + 2,), -1)
        places[torch.from_numpy(tokens.astype(np.int64))] = torch.arange(len(tokens))
        self._places = places.to(device)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(states.to(self._dtype), self._rows).float()

    def places(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._places[tokens.clamp(max=len(self._places) - 1)]

    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32)


class _Student(nn.Module):
    """All that learns."""

    def __init__(self, head: DraftHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, vocabulary: _Vocabulary, batch: _Batch) -> torch.Tensor:
        """The loss: cross-entropy to what the model found likely, nats a draft."""
        losses = []
        for logits, likely, probabilities in self._drafts(vocabulary, batch):
            places = vocabulary.places(likely)
            weights = probabilities * (places >= 0)
            found = logits.log_softmax(-1).gather(-1, places.clamp(min=0))
            losses.append(-(weights * found).sum(-1).mean())
        return torch.stack(losses).mean()

    def ranks(self, vocabulary: _Vocabulary, batch: _Batch) -> torch.Tensor:
        """(B, depth): how many candidates the draft puts before what the model found likeliest."""
        with torch.no_grad():
            columns = []
            for logits, likely, _ in self._drafts(vocabulary, batch):
                wanted = vocabulary.places(likely[:, 0])
                ranks = rank(logits, wanted.clamp(min=0))
                columns.append(torch.where(wanted >= 0, ranks, logits.shape[-1]))
            return torch.stack(columns, 1)

    def _drafts(self, vocabulary: _Vocabulary, batch: _Batch):  # type: ignore[no-untyped-def]
        state = batch.hidden
        for embedding, likely, probabilities in zip(
            batch.embeddings, batch.likely, batch.probabilities, strict=True
        ):
            with vocabulary.autocast(state.device):
                state = self.head(state, embedding)
            yield vocabulary.logits(state), likely, probabilities


def _likeliest(positions: _Positions, count: int) -> npt.NDArray[np.int32]:
    mass = np.bincount(positions.likely.reshape(-1), positions.probabilities.reshape(-1))
    best = np.argsort(-mass, kind="stable")[:count]
    return np.sort(best[mass[best] > 0]).astype(np.int32)
