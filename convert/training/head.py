"""The draft head: a small network that corrects a state once the next token is known.

A hidden state of the model, or the output of a lookahead token, is computed before the next token y is known.
From that *state* h and the embedding e(y), the head computes the state one position later. The model's own
output matrix then gives the logits of the token after y (Hydra, Ankner et al. 2024, arXiv 2402.05109, with a
gated layer):

    h + W_down · (silu(W_gate · x) * (W_up · x)),  x = [rms(h); rms(e(y)); rms(b)]

b is the state that y was chosen from: the model's own at first, later the head's own output. Only the head on
lookahead outputs gets b; the hidden head does not, because its h is b. So a draft depends on all tokens
before it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from pass_edge.native.draft_head import HeadWeights

_EPSILON = 1e-6


class DraftHead(nn.Module):
    """Maps (…, n_embd) states h, embeddings e(y) and states b to (…, n_embd) states. With two ``inputs``, b
    is ignored."""

    def __init__(self, n_embd: int, width: int, inputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout, self.inputs = nn.Dropout(dropout), inputs
        self.gate = nn.Linear(inputs * n_embd, width, bias=False)
        self.up = nn.Linear(inputs * n_embd, width, bias=False)
        self.down = nn.Linear(width, n_embd, bias=False)
        nn.init.zeros_(self.down.weight)  # starts as the identity

    @classmethod
    def from_weights(cls, weights: HeadWeights) -> DraftHead:
        """Return a frozen head with the runtime's ``weights``."""
        head = cls(weights.down.shape[0], weights.width, weights.inputs)
        head.load(weights)
        return head.requires_grad_(False)

    def load(self, weights: HeadWeights) -> None:
        """Take over the runtime's ``weights``, of the same width. Inputs that they lack get zero weights."""
        for name in ("gate", "up", "down"):
            own, numbers = getattr(self, name).weight, torch.from_numpy(getattr(weights, name).numbers())
            with torch.no_grad():
                own.zero_()[:, : numbers.shape[1]] = numbers

    def forward(self, state: torch.Tensor, embedding: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        inputs = (state, embedding, before)[: self.inputs]
        x = self.dropout(torch.cat([_rms(part) for part in inputs], -1))
        return state + self.down(self.dropout(nn.functional.silu(self.gate(x)) * self.up(x)))

    def draft(self, states: torch.Tensor, embeddings: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the head's states (B, n_embd) at each of D depths.

        ``states``: (B, S, n_embd), the hidden state, then lookahead outputs if there are any. ``embeddings``:
        (B, D, n_embd), of the tokens before each draft.
        """
        before, lookahead = states[:, 0], states[:, 1:]
        for depth in range(embeddings.shape[1]):
            state = lookahead[:, depth] if depth < lookahead.shape[1] else before
            before = self(state, embeddings[:, depth], before)
            yield before

    def weights(self) -> HeadWeights:
        """Return the weights in the runtime's format."""
        names = ("gate", "up", "down")
        return HeadWeights.quantize(*(getattr(self, name).weight.detach().cpu().numpy() for name in names))


def _rms(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPSILON)
