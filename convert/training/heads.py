"""How a draft head learns: from states that were made once and kept, so no model is needed any more.

The *hidden head* starts from the hidden state that a token was chosen from, and carries it forward from
token to token. The *head on lookahead outputs* takes, at each depth, what a lookahead token said there, too.
Either knows the token before the one it drafts, and the model's output matrix is to say what the model said.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import nn

from pass_edge.native.draft_head import HeadWeights
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import SettingsError

from .acceptance import Measured, Shares, rank
from .device import fastest
from .head import DraftHead
from .loop import Progress, Run, digest
from .text import Answered

DEPTH = 4
"""Tokens that the hidden head is measured on."""
_WEIGHT_DECAY = 0.05
_MEASURED_AT_ONCE = 512


@dataclass(frozen=True)
class TrainedHead:
    """What was learnt: ``weights``; ``losses``: (steps,) nats; ``measured``: pairs of a step and the
    acceptance on the held-out texts."""

    weights: HeadWeights
    losses: npt.NDArray[np.float32]
    measured: tuple[tuple[int, Measured], ...]


class Anchors:
    """Places in the answers of some texts with what the head starts from there, ``states`` (n, S, n_embd)
    float16: the hidden state, and behind it, for a head on lookahead outputs, these."""

    def __init__(
        self,
        texts: Sequence[Answered],
        places: Sequence[npt.NDArray[np.int64]],
        states: npt.NDArray[np.float16],
        depth: int,
    ) -> None:
        """``places``: for each text, numbers of tokens of its answer that ``depth`` more stand behind;
        ``states``: of all these, in order."""
        answers = [text.ids[text.prompt :] for text in texts]
        starts = np.cumsum([0, *map(len, answers)])
        none = np.zeros(0, np.int64)
        self._rows = np.concatenate(
            [none, *(start + some for start, some in zip(starts, places, strict=False))]
        )
        self._tokens = np.concatenate([none, *answers])
        self._likely = np.concatenate([text.likely for text in texts]) if texts else none
        self._logprobs = np.concatenate([text.logprobs for text in texts]) if texts else none
        self._states, self._depth = states, depth
        self.digest = digest(self._tokens, self._rows)

    @classmethod
    def on_hidden(cls, texts: Sequence[Answered], depth: int = DEPTH) -> Anchors:
        """All places, with the hidden states that their tokens were chosen from."""
        places = [np.arange(max(0, len(text.likely) - depth)) for text in texts]
        parts = [text.hidden[: len(some)] for text, some in zip(texts, places, strict=True)]
        return cls(texts, places, np.concatenate(parts)[:, None], depth)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def inputs(self) -> int:
        """Of a head that learns from them."""
        return 2 if self._states.shape[1] == 1 else 3

    def up_to(self, depth: int) -> Anchors:
        """The same places, with ``depth`` drafts each at most."""
        fewer = copy.copy(self)
        fewer._depth = min(depth, self._depth)
        fewer._states = self._states[:, : 1 + depth]
        return fewer

    def batch(self, which: npt.NDArray[np.int64], embeddings: TokenEmbeddings, device: torch.device) -> Batch:
        rows = self._rows[which]
        before = np.stack([self._tokens[rows + k] for k in range(self._depth)], 1)
        drafted = rows[:, None] + np.arange(1, self._depth + 1)
        known = embeddings.rows(before.reshape(-1).astype(np.int32)).reshape(*before.shape, -1)
        arrays = (
            self._states[which].astype(np.float32),
            known,
            self._likely[drafted].astype(np.int64),
            np.exp(self._logprobs[drafted].astype(np.float32)),
        )
        return Batch(*(torch.from_numpy(array).to(device) for array in arrays))


@dataclass(frozen=True)
class Batch:
    """``states`` (B, S, n_embd), as in Anchors; and at each of D depths ``embeddings`` (B, D, n_embd) of the
    tokens before the draft, and what the model found ``likely`` (B, D, k) in its place, with
    ``probabilities``."""

    states: torch.Tensor
    embeddings: torch.Tensor
    likely: torch.Tensor
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
    anchors: int = 512,
    dropout: float = 0.3,
    seed: int = 0,
    measure_every: int = 500,
    progress: Progress = lambda step, steps, loss, measured: None,
) -> TrainedHead:
    """Train a head of ``width`` to draft ``candidates``, going on from ``path``. ``name``: what it is
    measured as; ``lr``: the learning rate, which falls along a cosine; ``start``: of that width, what it
    begins with; ``anchors``: in each step. Raises SettingsError, ModelError."""
    if not len(learn) or not len(held_out):
        raise SettingsError("the answers are too short to train a draft head on, or to measure it on")
    accelerator = Accelerator()
    embeddings = TokenEmbeddings(model)
    rows = embeddings.output.rows(candidates).numbers()
    vocabulary = _Vocabulary(candidates, torch.from_numpy(rows), accelerator.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = _Student(DraftHead(embeddings.width, width, learn.inputs, dropout))
    if start:
        student.head.load(start)
    run = Run(
        path,
        student,
        [(list(student.parameters()), lr)],
        weight_decay=_WEIGHT_DECAY,
        steps=steps,
        asked=[
            *(name, width, anchors, lr, dropout, seed, measure_every),
            *(learn.digest, held_out.digest, digest(candidates)),
        ],
        accelerator=accelerator,
    )

    def drawn(number: int) -> tuple[_Vocabulary, Batch]:
        which = np.random.default_rng([seed, number]).choice(len(learn), anchors)
        return vocabulary, learn.batch(which, embeddings, accelerator.device)

    def measure() -> Measured:
        parts = np.array_split(np.arange(len(held_out)), -(-len(held_out) // _MEASURED_AT_ONCE))
        batches = (held_out.batch(which, embeddings, accelerator.device) for which in parts)
        return {name: Shares.of(torch.cat([student.ranks(vocabulary, batch) for batch in batches]))}

    run.go(drawn, measure, measure_every, progress)
    return TrainedHead(student.head.weights(), np.array(run.losses, np.float32), tuple(run.measured))


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

    def forward(self, vocabulary: _Vocabulary, batch: Batch) -> torch.Tensor:
        """The loss: cross-entropy to what the model found likely, nats a draft."""
        losses = []
        for depth, logits in enumerate(self._drafts(vocabulary, batch)):
            places = vocabulary.places(batch.likely[:, depth])
            weights = batch.probabilities[:, depth] * (places >= 0)
            found = logits.log_softmax(-1).gather(-1, places.clamp(min=0))
            losses.append(-(weights * found).sum(-1).mean())
        return torch.stack(losses).mean()

    def ranks(self, vocabulary: _Vocabulary, batch: Batch) -> torch.Tensor:
        """(B, depth): how many candidates the draft puts before what the model found likeliest."""
        self.eval()
        with torch.no_grad():
            columns = []
            for depth, logits in enumerate(self._drafts(vocabulary, batch)):
                wanted = vocabulary.places(batch.likely[:, depth, 0])
                ranks = rank(logits, wanted.clamp(min=0))
                columns.append(torch.where(wanted >= 0, ranks, logits.shape[-1]))
        self.train()
        return torch.stack(columns, 1)

    def _drafts(self, vocabulary: _Vocabulary, batch: Batch) -> Iterator[torch.Tensor]:
        """Logits (B, candidates) at each depth."""
        with vocabulary.autocast(batch.states.device):
            states = list(self.head.along(batch.states, batch.embeddings))
        return map(vocabulary.logits, states)


def likeliest(texts: Sequence[Answered], count: int) -> npt.NDArray[np.int32]:
    """The ``count`` tokens that were likeliest in all answers together, ascending."""
    likely = np.concatenate([text.likely.reshape(-1) for text in texts])
    logprobs = np.concatenate([text.logprobs.reshape(-1) for text in texts])
    mass = np.bincount(likely, np.exp(logprobs.astype(np.float32)))
    best = np.argsort(-mass, kind="stable")[:count]
    return np.sort(best[mass[best] > 0]).astype(np.int32)
