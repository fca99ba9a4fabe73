"""From what a forward pass gave to a draft of the tokens after the new root.

Three sources, each with distributions of the same tokens: the outputs of lookahead tokens as they are; those
outputs corrected by the draft head, which knows the token before; and the hidden state of the last accepted
token, which the hidden head carries forward from token to token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pass_edge.sampling.noise import DRAFT
from pass_edge.sampling.sampler import Distribution, Sampler

from .heads import HeadLogits, Heads
from .lookahead import Floats
from .tree import Draft


@dataclass(frozen=True)
class PassOutput:
    """What a pass gave at the last accepted node: its ``hidden`` state (n_embd,), and the ``logits``
    (g, n_vocab) and ``states`` (g, n_embd) of its lookahead group. States are None where none were kept."""

    logits: Floats
    hidden: Floats | None = None
    states: Floats | None = None


@dataclass(frozen=True)
class DraftToken:
    """One token drafted. ``given``: the chance that the draft gives its best token, not the drawn one's: what
    is drafted must not decide whether it is. ``proposal``: what it was drawn from, by the rejection rule; by
    the other one there are ``others`` instead, the next best in its place, with the chances given them."""

    token: int
    given: float
    proposal: Distribution | None = None
    others: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Drafter:
    """Drafts chains of up to ``depth`` tokens from what passes gave, with ``heads`` if there are any, and up
    to ``others`` more in the place of each."""

    depth: int
    heads: Heads | None = None
    p_min: float = 0.0
    others: int = 0

    def draft(
        self,
        outcome: PassOutput,
        root: int,
        sampler: Sampler,
        position: int,
        history: Sequence[int],
        rule: str,
    ) -> Draft:
        """The tokens from ``position`` on, after the new ``root``, as long as the whole chain's chance, as it
        sees it itself, is ``p_min`` or more; ``history`` ends with the root."""
        chain: list[DraftToken] = []
        chances: list[float] = []
        for ahead in self.ahead(outcome, root, sampler, position, history, rule):
            chances.append(ahead.given * (chances[-1] if chances else 1.0))
            if chances[-1] < self.p_min:
                break
            chain.append(ahead)
        proposals = [ahead.proposal for ahead in chain if ahead.proposal]
        return Draft.chain([ahead.token for ahead in chain], chances[: len(chain)], proposals)

    def ahead(
        self,
        outcome: PassOutput,
        root: int,
        sampler: Sampler,
        position: int,
        history: Sequence[int],
        rule: str,
    ) -> Iterator[DraftToken]:
        """The chain token by token: what is not asked for is not computed. Arguments as for ``draft``."""
        tokens, history = [root], list(history)
        for guess in self._chain(outcome, tokens):
            if rule == "rejection":
                proposal = sampler.distribution(guess.whole().logits, history)
                ahead = DraftToken(proposal.draw(sampler.seed, position, DRAFT), guess.given, proposal)
            else:
                if sampler.adjusts:
                    guess = guess.whole()
                places = sampler.ranked(guess.logits, position, history, 1 + self.others, among=guess.tokens)
                (token, _), *others = map(guess.at, places)
                ahead = DraftToken(token, guess.given, others=tuple(others))
            tokens.append(ahead.token)
            yield ahead
            history.append(ahead.token)
            position += 1

    def _chain(self, outcome: PassOutput, tokens: Sequence[int]) -> Iterator[HeadLogits]:
        """A guess for each depth, made once the token before stands at the end of ``tokens``: from the best
        source there is. Mixing them was measured, and is no better (docs/training.md)."""
        states = () if outcome.states is None else outcome.states
        state = before = outcome.hidden
        carried = 0
        for depth in range(self.depth):
            guess = None
            if self.heads and before is not None and depth < len(states):
                before, guess = self.heads.corrected(states[depth], tokens[-1], before) or (before, None)
            if guess is None and self.heads and state is not None:
                for token in tokens[carried:]:
                    state, guess = self.heads.onward(state, token) or (state, None)
                carried = len(tokens)
            if guess is None and depth < len(outcome.logits):
                logits = outcome.logits[depth]
                guess = HeadLogits.by(logits, None, len(logits))
            if guess is None:
                return
            yield guess
