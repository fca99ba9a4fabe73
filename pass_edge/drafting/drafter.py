"""Draft the tokens after the new root from what a forward pass has left.

There are three sources of logits for the same tokens: the outputs of lookahead tokens as they are; these
outputs corrected by the draft head, which knows the token before; and the hidden state of the last accepted
token, which the hidden head advances from token to token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pass_edge.sampling.noise import DRAFT
from pass_edge.sampling.sampler import Distribution, Sampler
from pass_edge.settings import REJECTION

from .heads import HeadLogits, Heads
from .lookahead import Floats
from .tree import Draft, DraftTree


@dataclass(frozen=True)
class PassOutput:
    """What a pass has left at the last accepted node, to draft from.

    ``lookahead_logits``: (g, n_vocab) float32, of the node's g lookahead tokens. ``hidden``: (n_embd,)
    float32, the node's hidden state. ``lookahead_states``: (g, n_embd) float32, the hidden states of the
    lookahead tokens. Hidden states are None where the pass did not keep them.
    """

    lookahead_logits: Floats
    hidden: Floats | None = None
    lookahead_states: Floats | None = None


@dataclass(frozen=True)
class StepResult:
    """One conversation's part of a pass that was decoded, verified and committed.

    ``tree``: what was decoded. ``new_tokens``: the accepted tokens and the new root, which is the last.
    ``output``: what there is to draft from. ``sampler``: draws drafts. ``history``: the tokens up to the new
    root, at least as many as ``sampler`` looks back on. ``rule``: the verification rule. ``depth``: tokens in
    the KV cache before the pass. ``rows``: of the whole pass, which took ``seconds``. ``other_rows``: those
    of other conversations. ``n_sharing``: how many shared the pass. ``n_waiting``: how many more
    waited for another one. ``replay_seconds``: the part of ``seconds`` in which accepted tokens were decoded
    again. Arrays are valid until the next pass.
    """

    tree: DraftTree
    new_tokens: tuple[int, ...]
    output: PassOutput
    sampler: Sampler
    history: Sequence[int]
    rule: str
    depth: int
    rows: int
    seconds: float
    other_rows: int = 0
    n_sharing: int = 1
    n_waiting: int = 0
    replay_seconds: float = 0.0

    @property
    def n_active(self) -> int:
        """The number of conversations that wanted a pass."""
        return self.n_sharing + self.n_waiting

    @property
    def next_position(self) -> int:
        """The position of the token after the new root."""
        return self.depth + len(self.new_tokens) + 1


@dataclass(frozen=True)
class DraftToken:
    """One drafted token.

    ``confidence``: the probability that the source gives its best token. It is not that of the token drawn,
    because whether a token is drafted must not depend on which one it is. ``proposal``: by the rejection
    rule, the distribution that ``token`` was drawn from. ``alternatives``: by the other rule, the next best
    tokens at the same depth, with the probabilities that the source gives them.
    """

    token: int
    confidence: float
    proposal: Distribution | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


class DraftSource(Protocol):
    """Drafts chains, token by token."""

    def draft_tokens(self, result: StepResult) -> Iterator[DraftToken]:
        """Yield the tokens of the chain after the new root; each is computed when it is asked for."""


Predictions = Callable[[Sequence[int]], Iterator[HeadLogits]]
"""Yields the logits for each depth. It is given the root and the chain so far, to which each drafted token is
added before the next logits are asked for."""


def drawn(predictions: Predictions, result: StepResult, n_alternatives: int) -> Iterator[DraftToken]:
    """Yield the tokens of the chain after the new root, drawn from ``predictions`` as ``result.rule`` accepts
    most often. ``n_alternatives``: most alternatives to each token."""
    sampler, position = result.sampler.unconstrained, result.next_position
    tokens, history = [result.new_tokens[-1]], list(result.history)
    for logits in predictions(tokens):
        if result.rule == REJECTION:
            proposal = sampler.distribution(logits.for_all_tokens().logits, history)
            token = proposal.draw(sampler.seed, position, DRAFT)
            drafted = DraftToken(token, logits.confidence, proposal)
        else:
            if sampler.adjusts_logits:
                logits = logits.for_all_tokens()
            indices = sampler.ranked(
                logits.logits, position, history, 1 + n_alternatives, tokens=logits.tokens
            )
            (token, _), *alternatives = map(logits.token_at, indices)
            drafted = DraftToken(token, logits.confidence, alternatives=tuple(alternatives))
        tokens.append(drafted.token)
        yield drafted
        history.append(drafted.token)
        position += 1


@dataclass(frozen=True)
class Drafter:
    """Drafts chains from what passes have left.

    ``depth``: most tokens of a chain. ``heads``: None drafts from lookahead outputs alone. ``p_min``: as for
    ``draft``. ``n_alternatives``: most alternatives to each token.
    """

    depth: int
    heads: Heads | None = None
    p_min: float = 0.0
    n_alternatives: int = 0

    def draft(self, result: StepResult) -> Draft:
        """Return the chain of ``draft_tokens``, without alternatives, up to where the product of the
        confidences falls below ``p_min``."""
        chain: list[DraftToken] = []
        probabilities: list[float] = []
        for drafted in self.draft_tokens(result):
            probability = drafted.confidence * (probabilities[-1] if probabilities else 1.0)
            if probability < self.p_min:
                break
            chain.append(drafted)
            probabilities.append(probability)
        proposals = [drafted.proposal for drafted in chain if drafted.proposal]
        return Draft.chain([drafted.token for drafted in chain], probabilities, proposals)

    def draft_tokens(self, result: StepResult) -> Iterator[DraftToken]:
        """Yield the tokens of the chain after the new root; each is computed when it is asked for."""
        return drawn(partial(self._predictions, result.output), result, self.n_alternatives)

    def _predictions(self, output: PassOutput, tokens: Sequence[int]) -> Iterator[HeadLogits]:
        """Yield the logits for each depth, from the best source that there is. ``tokens``: as for
        Predictions.

        Corrected lookahead outputs come first, then the hidden head, then plain lookahead outputs. Mixtures
        of them were measured, and are no better (docs/training-log.md).
        """
        states = () if output.lookahead_states is None else output.lookahead_states
        state = previous = output.hidden
        n_advanced = 0
        for depth in range(self.depth):
            logits = None
            if self.heads and previous is not None and depth < len(states):
                corrected = self.heads.correct(states[depth], tokens[-1], previous)
                previous, logits = corrected or (previous, None)
            if logits is None and self.heads and state is not None:
                for token in tokens[n_advanced:]:
                    state, logits = self.heads.advance(state, token) or (state, None)
                n_advanced = len(tokens)
            if logits is None and depth < len(output.lookahead_logits):
                plain = output.lookahead_logits[depth]
                logits = HeadLogits.from_logits(plain, None, len(plain))
            if logits is None:
                return
            yield logits
