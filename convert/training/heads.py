"""Train a draft head from saved states, without running the model.

The *hidden head* starts from the hidden state that a token was chosen from, and advances it token by token.
The *head on lookahead outputs* also uses, at each depth, the output of a lookahead token. Both get the token
before the one they draft. The target is the model's own distribution, through the model's output matrix.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import nn

from pass_edge.native.draft_head import HeadWeights
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import SettingsError

from .acceptance import Acceptance, AcceptanceBySource, rank
from .device import fastest_dtype
from .head import DraftHead
from .loop import Run, StepProgress, digest
from .text import TrainingText

DEPTH = 4
"""Tokens in a row on which the hidden head is measured."""
ANCHORS = 512
"""Anchors in a training step."""
_WEIGHT_DECAY = 0.05
_MEASURE_BATCH = 512


@dataclass(frozen=True)
class TrainedHead:
    """A trained head: ``weights``; ``losses``: (steps,) in nats; ``measured``: pairs of a step and the
    acceptance on the held-out texts."""

    weights: HeadWeights
    losses: npt.NDArray[np.float32]
    measured: tuple[tuple[int, AcceptanceBySource], ...]


class Anchors:
    """Positions in the answers of some texts, with the states (n, S, n_embd) float16 that a head starts from
    there: the hidden state, then, for a head on lookahead outputs, these outputs."""

    def __init__(
        self,
        texts: Sequence[TrainingText],
        positions: Sequence[npt.NDArray[np.int64]],
        states: npt.NDArray[np.float16],
        depth: int,
    ) -> None:
        """``positions``: for each text, positions in its answer that ``depth`` more tokens follow;
        ``states``: those at all these positions, in order."""
        answers = [text.ids[text.prompt_length :] for text in texts]
        starts = np.cumsum([0, *map(len, answers)])
        empty = np.zeros(0, np.int64)
        self._rows = np.concatenate(
            [empty, *(start + each for start, each in zip(starts, positions, strict=False))]
        )
        self._tokens = np.concatenate([empty, *answers])
        self._top_tokens = np.concatenate([text.top_tokens for text in texts]) if texts else empty
        self._logprobs = np.concatenate([text.logprobs for text in texts]) if texts else empty
        self._states, self._depth = states, depth
        self.digest = digest(self._tokens, self._rows)

    @classmethod
    def from_hidden_states(cls, texts: Sequence[TrainingText], depth: int = DEPTH) -> Anchors:
        """Return anchors at all positions, with the hidden states that their tokens were chosen from."""
        positions = [np.arange(max(0, len(text.top_tokens) - depth)) for text in texts]
        hidden = [text.hidden[: len(each)] for text, each in zip(texts, positions, strict=True)]
        return cls(texts, positions, np.concatenate(hidden)[:, None], depth)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def inputs(self) -> int:
        """The number of inputs of a head that learns from them."""
        return 2 if self._states.shape[1] == 1 else 3

    def up_to(self, depth: int) -> Anchors:
        """Return the same anchors, with at most ``depth`` drafts each."""
        limited = copy.copy(self)
        limited._depth = min(depth, self._depth)
        limited._states = self._states[:, : 1 + depth]
        return limited

    def batch(self, which: npt.NDArray[np.int64], embeddings: TokenEmbeddings, device: torch.device) -> Batch:
        """Return the anchors ``which`` (B,) on ``device``."""
        rows = self._rows[which]
        before = np.stack([self._tokens[rows + k] for k in range(self._depth)], 1)
        drafted = rows[:, None] + np.arange(1, self._depth + 1)
        inputs = embeddings.rows(before.reshape(-1).astype(np.int32)).reshape(*before.shape, -1)
        arrays = (
            self._states[which].astype(np.float32),
            inputs,
            self._top_tokens[drafted].astype(np.int64),
            np.exp(self._logprobs[drafted].astype(np.float32)),
        )
        return Batch(*(torch.from_numpy(array).to(device) for array in arrays))


@dataclass(frozen=True)
class Batch:
    """``states``: (B, S, n_embd), as in Anchors. At each of D depths, ``embeddings``: (B, D, n_embd), of the
    tokens before the draft; ``targets``: (B, D, k), the model's most likely tokens there, the best first; and
    their ``probabilities``."""

    states: torch.Tensor
    embeddings: torch.Tensor
    targets: torch.Tensor
    probabilities: torch.Tensor


def train_head(
    name: str,
    model: Path,
    learn: Anchors,
    held_out: Anchors,
    path: Path,
    *,
    candidates: npt.NDArray[np.int32],
    width: int,
    steps: int,
    lr: float,
    start: HeadWeights | None = None,
    anchors: int = ANCHORS,
    dropout: float = 0.1,
    noise: float = 0.5,
    seed: int = 0,
    measure_every: int = 500,
    progress: StepProgress = lambda step, steps, loss, measured: None,
) -> TrainedHead:
    """Train a head of ``width`` to draft ``candidates``, and resume from the state in ``path``.

    ``name``: the source in its acceptance; ``lr``: the learning rate, with cosine decay; ``start``: initial
    weights of that width; ``anchors``: in each step; ``noise``: most noise on a number of the states that
    drafts start from, in root mean squares of that state (uniform, as in EAGLE, arXiv 2401.15077; it does
    for little text what more text would). Raises SettingsError, ModelError.
    """
    if not len(learn) or not len(held_out):
        raise SettingsError("the answers are too short to train a draft head on, or to measure it on")
    accelerator = Accelerator()
    embeddings = TokenEmbeddings(model)
    rows = embeddings.output.rows(candidates).numbers()
    vocabulary = _Vocabulary(candidates, torch.from_numpy(rows), accelerator.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = _Student(DraftHead(embeddings.width, width, learn.inputs, dropout), noise)
    if start:
        student.head.load(start)
    run = Run(
        path,
        student,
        [(list(student.parameters()), lr)],
        weight_decay=_WEIGHT_DECAY,
        steps=steps,
        settings=[
            *(name, width, anchors, lr, dropout, noise, seed, measure_every),
            *(learn.digest, held_out.digest, digest(candidates)),
        ],
        accelerator=accelerator,
    )

    def batch(number: int) -> tuple[_Vocabulary, Batch]:
        which = np.random.default_rng([seed, number]).choice(len(learn), anchors)
        return vocabulary, learn.batch(which, embeddings, accelerator.device)

    def measure() -> AcceptanceBySource:
        parts = np.array_split(np.arange(len(held_out)), -(-len(held_out) // _MEASURE_BATCH))
        batches = (held_out.batch(which, embeddings, accelerator.device) for which in parts)
        ranks = torch.cat([student.ranks(vocabulary, batch) for batch in batches])
        return {name: Acceptance.from_ranks(ranks)}

    run.train(batch, measure, measure_every, progress)
    return TrainedHead(student.head.weights(), np.array(run.losses, np.float32), tuple(run.measured))


class _Vocabulary:
    """The candidates and their rows of the output matrix; and for each token its index among them, or -1."""

    def __init__(self, tokens: npt.NDArray[np.int32], rows: torch.Tensor, device: torch.device) -> None:
        self._dtype = fastest_dtype(device)
        self._rows = rows.to(device, self._dtype)
        indices = torch.full((int(tokens.max()) + 2,), -1)
        indices[torch.from_numpy(tokens.astype(np.int64))] = torch.arange(len(tokens))
        self._indices = indices.to(device)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(states.to(self._dtype), self._rows).float()

    def indices(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._indices[tokens.clamp(max=len(self._indices) - 1)]

    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32)


class _Student(nn.Module):
    """The module that is trained."""

    def __init__(self, head: DraftHead, noise: float) -> None:
        super().__init__()
        self.head, self._noise = head, noise

    def forward(self, vocabulary: _Vocabulary, batch: Batch) -> torch.Tensor:
        """Return the loss: cross-entropy to the model's most likely tokens, in nats per draft."""
        losses = []
        noisy = replace(batch, states=_with_noise(batch.states, self._noise))
        for depth, logits in enumerate(self._drafts(vocabulary, noisy)):
            indices = vocabulary.indices(batch.targets[:, depth])
            weights = batch.probabilities[:, depth] * (indices >= 0)
            logprobs = logits.log_softmax(-1).gather(-1, indices.clamp(min=0))
            losses.append(-(weights * logprobs).sum(-1).mean())
        return torch.stack(losses).mean()

    def ranks(self, vocabulary: _Vocabulary, batch: Batch) -> torch.Tensor:
        """Return how many candidates the drafts rank before the model's most likely token: (B, D)."""
        self.eval()
        with torch.no_grad():
            columns = []
            for depth, logits in enumerate(self._drafts(vocabulary, batch)):
                targets = vocabulary.indices(batch.targets[:, depth, 0])
                ranks = rank(logits, targets.clamp(min=0))
                columns.append(torch.where(targets >= 0, ranks, logits.shape[-1]))
        self.train()
        return torch.stack(columns, 1)

    def _drafts(self, vocabulary: _Vocabulary, batch: Batch) -> Iterator[torch.Tensor]:
        """Yield the logits (B, candidates) at each depth."""
        with vocabulary.autocast(batch.states.device):
            states = list(self.head.draft(batch.states, batch.embeddings))
        return map(vocabulary.logits, states)


def _with_noise(states: torch.Tensor, most: float) -> torch.Tensor:
    """Return ``states`` (…, n_embd) with uniform noise of at most ``most`` times each one's root mean square
    on every number."""
    mean_square = states.square().mean(-1, keepdim=True)
    return states + most * mean_square.sqrt() * (2 * torch.rand_like(states) - 1)


def most_likely_tokens(texts: Sequence[TrainingText], count: int) -> npt.NDArray[np.int32]:
    """Return the ``count`` tokens with the largest total probability in all answers, in ascending order."""
    tokens = np.concatenate([text.top_tokens.reshape(-1) for text in texts])
    logprobs = np.concatenate([text.logprobs.reshape(-1) for text in texts])
    mass = np.bincount(tokens, np.exp(logprobs.astype(np.float32)))
    best = np.argsort(-mass, kind="stable")[:count]
    return np.sort(best[mass[best] > 0]).astype(np.int32)
