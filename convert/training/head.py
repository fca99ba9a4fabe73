"""The draft head: a small network on the host that knows the token a draft comes after.

A hidden state of the model, or the output of a lookahead token, was made before the next token y was known.
The head makes from that *state* h and the embedding e(y) the state one position further, so that the model's
own output matrix tells the token after y (Hydra, Ankner et al. 2024, arXiv 2402.05109, with a gated layer):

    h + W_down · (silu(W_gate · x) * (W_up · x)),  x = [rms(h); rms(e(y)); rms(b)]

b, which the head on lookahead outputs is told and the hidden head is not, is the state that y was chosen
from: the model's own, and further on what the head made there. So a draft knows of all tokens before it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from pass_edge.native.draft_head import HeadWeights

_EPSILON = 1e-6


class DraftHead(nn.Module):
    """(…, n_embd) states h, embeddings e(y) and states b → (…, n_embd) states. With two ``inputs`` it is not
    told b."""

    def __init__(self, n_embd: int, width: int, inputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout, self.inputs = nn.Dropout(dropout), inputs
        self.gate = nn.Linear(inputs * n_embd, width, bias=False)
        self.up = nn.Linear(inputs * n_embd, width, bias=False)
        self.down = nn.Linear(width, n_embd, bias=False)
        nn.init.zeros_(self.down.weight)  # it begins as the identity

    @classmethod
    def of(cls, weights: HeadWeights) -> DraftHead:
        """The head that the runtime has."""
        head = cls(weights.down.shape[0], weights.width, weights.inputs)
        head.load(weights)
        return head.requires_grad_(False)

    def load(self, weights: HeadWeights) -> None:
        """Become the head that the runtime has, of the same width; an input that it is not told counts
        nothing."""
        for name in ("gate", "up", "down"):
            own, numbers = getattr(self, name).weight, torch.from_numpy(getattr(weights, name).numbers())
            with torch.no_grad():
                own.zero_()[:, : numbers.shape[1]] = numbers

    def forward(self, state: torch.Tensor, embedding: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        told = (state, embedding, before)[: self.inputs]
        x = self.dropout(torch.cat([_rms(part) for part in told], -1))
        return state + self.down(self.dropout(nn.functional.silu(self.gate(x)) * self.up(x)))

    def along(self, states: torch.Tensor, embeddings: torch.Tensor) -> Iterator[torch.Tensor]:
        """(B, n_embd) at each of D depths: what it makes of ``states`` (B, S, n_embd), the hidden state and
        behind it lookahead outputs if there are any, and the ``embeddings`` (B, D, n_embd) of the tokens."""
        before, said = states[:, 0], states[:, 1:]
        for depth in range(embeddings.shape[1]):
            state = said[:, depth] if depth < said.shape[1] else before
            before = self(state, embeddings[:, depth], before)
            yield before

    def weights(self) -> HeadWeights:
        """What was learnt, as the runtime takes it."""
        names = ("gate", "up", "down")
        return HeadWeights.of(*(getattr(self, name).weight.detach().cpu().numpy() for name in names))


def _rms(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPSILON)
