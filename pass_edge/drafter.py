"""From what a forward pass gave to a draft of the tokens after the new root.

Three sources, each with distributions of the same tokens: the outputs of lookahead tokens as they are; those
outputs corrected by the draft head, which knows the token before; and the hidden state of the last accepted
token, which the hidden head carries forward from token to token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pass_edge.native.draft_head import DraftHead, OutputRows
from pass_edge.native.embeddings import TokenEmbeddings

from .lookahead import Floats, Lookahead
from .noise import DRAFT, Int64s
from .sampling import Distribution, Sampler
from .tree import Draft


@dataclass(frozen=True)
class Guess:
    """Of one token to come: ``logits`` (m,) of ``tokens`` (m,), or of all ``n_vocab`` where that is None; of
    others nothing is thought. ``best``: the largest; ``given``: the chance that they give its token."""

    logits: Floats
    tokens: Int64s | None
    n_vocab: int
    best: float
    given: float

    @classmethod
    def by(cls, logits: Floats, tokens: Int64s | None, n_vocab: int) -> Guess:
        best = float(logits.max())
        return cls(logits, tokens, n_vocab, best, float(1 / np.exp(logits - best).sum()))

    def whole(self) -> Guess:
        """The same, with logits of all tokens."""
        if self.tokens is None:
            return self
        logits = np.full(self.n_vocab, -np.inf, np.float32)
        logits[self.tokens] = self.logits
        return replace(self, logits=logits, tokens=None)

    def at(self, place: int) -> tuple[int, float]:
        """The token of a place in ``logits``, and the chance that they give it."""
        token = place if self.tokens is None else int(self.tokens[place])
        return token, self.given * math.exp(float(self.logits[place]) - self.best)


Stepped = tuple[Floats, Guess]  # a head's state, (n_embd,), and what it makes of it


@dataclass(frozen=True)
class Outcome:
    """What a pass gave at the last accepted node: its ``hidden`` state (n_embd,), and the ``logits``
    (g, n_vocab) and ``states`` (g, n_embd) of its lookahead group. States are None where none were kept."""

    logits: Floats
    hidden: Floats | None = None
    states: Floats | None = None


class Heads:
    """The draft heads of one model's lookahead. Close it when done. Not thread-safe."""

    def __init__(
        self,
        lookahead: Lookahead,
        embeddings: TokenEmbeddings,
        *,
        threads: int,
        corrects: bool = True,
    ) -> None:
        """``embeddings``: the model's. ``corrects``: with the head on lookahead outputs, not only the hidden
        head. Raises LibraryError."""
        self._embeddings = embeddings
        self._candidates, self._n_vocab = lookahead.candidates.astype(np.int64), lookahead.base.n_vocab
        self._output = OutputRows(embeddings.output, lookahead.candidates)
        self._heads = [
            DraftHead(weights, self._output, threads=threads) if weights else None
            for weights in (lookahead.head if corrects else None, lookahead.hidden_head)
        ]

    def corrected(self, state: Floats, token: int, before: Floats) -> Stepped | None:
        """From a lookahead output (n_embd,) in the place of ``token``, and the state ``before`` it, to the
        state behind it and a guess there; None without a head for that."""
        return self._step(self._heads[0], state, token, before)

    def onward(self, state: Floats, token: int) -> Stepped | None:
        """From the hidden state before ``token``, (n_embd,), to the one behind it and a guess there; None
        without a head for that."""
        return self._step(self._heads[1], state, token, state)

    def _step(self, head: DraftHead | None, state: Floats, token: int, before: Floats) -> Stepped | None:
        if not head:
            return None
        behind, scores = head.step(state, self._embedding(token), before)
        return behind, Guess.by(scores, self._candidates, self._n_vocab)

    def _embedding(self, token: int) -> Floats:
        return self._embeddings.rows(np.array([token], np.int32))[0]

    def close(self) -> None:
        """Free their memory; safe to call twice."""
        for head in self._heads:
            if head:
                head.close()
        self._output.close()


@dataclass(frozen=True)
class Ahead:
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
        self, outcome: Outcome, root: int, sampler: Sampler, position: int, history: Sequence[int], rule: str
    ) -> Draft:
        """The tokens from ``position`` on, after the new ``root``, as long as the whole chain's chance, as it
        sees it itself, is ``p_min`` or more; ``history`` ends with the root."""
        chain: list[Ahead] = []
        chances: list[float] = []
        for ahead in self.ahead(outcome, root, sampler, position, history, rule):
            chances.append(ahead.given * (chances[-1] if chances else 1.0))
            if chances[-1] < self.p_min:
                break
            chain.append(ahead)
        proposals = [ahead.proposal for ahead in chain if ahead.proposal]
        return Draft.chain([ahead.token for ahead in chain], chances[: len(chain)], proposals)

    def ahead(
        self, outcome: Outcome, root: int, sampler: Sampler, position: int, history: Sequence[int], rule: str
    ) -> Iterator[Ahead]:
        """The chain token by token: what is not asked for is not computed. Arguments as for ``draft``."""
        tokens, history = [root], list(history)
        for guess in self._chain(outcome, tokens):
            if rule == "rejection":
                proposal = sampler.distribution(guess.whole().logits, history)
                ahead = Ahead(proposal.draw(sampler.seed, position, DRAFT), guess.given, proposal)
            else:
                if sampler.adjusts:
                    guess = guess.whole()
                places = sampler.ranked(guess.logits, position, history, 1 + self.others, among=guess.tokens)
                (token, _), *others = map(guess.at, places)
                ahead = Ahead(token, guess.given, others=tuple(others))
            tokens.append(ahead.token)
            yield ahead
            history.append(ahead.token)
            position += 1

    def _chain(self, outcome: Outcome, tokens: Sequence[int]) -> Iterator[Guess]:
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
                guess = Guess.by(logits, None, len(logits))
            if guess is None:
                return
            yield guess
