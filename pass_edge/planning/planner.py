"""The cost-aware schedule: each pass decodes the most valuable tree, given what passes cost here.

With λ the throughput (the tokens per second that decoding makes anyway), a pass over the root and a draft is
worth

    1 + Σ path probabilities of the draft's nodes - λ · T(rows)    tokens.

Taking the most valuable tree in every pass gives the best throughput in the long run (renewal reward theorem;
docs/planner.md). For n drafted tokens the n most likely nodes are the best ones, and they always form a tree.
Where no draft is worth its rows, nothing is drafted; so no pass is planned to be worse than a plain one.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from pass_edge.drafting.draft_model import DraftConversation
from pass_edge.drafting.drafter import Drafter, DraftSource, DraftToken, StepResult
from pass_edge.drafting.mtp import MtpConversation
from pass_edge.drafting.ngrams import NgramContinuations, NgramIndex
from pass_edge.drafting.tree import NO_DRAFT, Draft, DraftTree, TreeLimits
from pass_edge.sampling.sampler import Distribution, Sampler
from pass_edge.settings import MAX_ROWS, REJECTION

from .acceptance import AcceptanceRates, head_bucket, ngram_bucket
from .cost_model import Doubles, StepCosts
from .draft_model_use import DraftModelUse
from .draft_statistics import LIKELY, AcceptanceEstimates, ChainStatistics, DraftStatistics
from .grammar_guide import GrammarGuide
from .tree_selection import DraftBuilder, Throughput, TreeSelector

GPU_TREE_SIZES = (1, 2, 4, 8, 16, 32)
"""Numbers of nodes that trees may have on a GPU. There, passes of the same size as the one before are
cheaper: llama.cpp keeps the graph, and CUDA records it once it is repeated."""
_HEAD_COST = 0.1
"""Approximate time of a head, as a share of a pass over one row."""
_REPLAN_INTERVAL = 8
"""Passes that one TreeSelector serves: depth, costs and throughput change slowly, and numpy calls between
passes take time."""

_NO_LIMITS = TreeLimits()

_Candidate = tuple[float, int, int, int | None, NgramContinuations]
"""A node that may be drafted next: (-path probability, serial number that breaks ties, parent node, token or
None for the root, continuations after the token)."""


class Planner:
    """The schedule "auto": a Schedule that drafts from n-grams of the conversation, from ``drafter`` and from
    a draft model, and decodes the drafts that are worth their rows. Not thread-safe."""

    def __init__(
        self,
        costs: StepCosts,
        drafter: Drafter | None = None,
        n_lookahead: int = 0,
        *,
        statistics: DraftStatistics | None = None,
        use_ngrams: bool = True,
        max_drafted: int = MAX_ROWS,
        tree_sizes: Sequence[int] = (),
        limits: TreeLimits = _NO_LIMITS,
        draft_model: DraftConversation | None = None,
    ) -> None:
        """``costs``: of passes, up to the widest one that may run. ``drafter``: drafts from heads and
        lookahead outputs. ``n_lookahead``: lookahead tokens at each node of a tree that has any.
        ``statistics``: shared with other conversations, or new ones if None. ``use_ngrams``: draft from the
        conversation too. ``max_drafted``: most tokens drafted in a pass. ``tree_sizes``: numbers of nodes
        that a tree may have, besides the largest tree that fits; empty allows any number. ``limits``: which
        trees the model's memory can verify. ``draft_model``: drafts from a draft model, or from the
        model's MTP layers."""
        self._costs = costs
        self._drafter = drafter or Drafter(0)
        self._n_lookahead = n_lookahead
        self._statistics = statistics or DraftStatistics(lookahead_may_pay=may_look_ahead(costs))
        self._draft_model = DraftModelUse(draft_model, self._statistics) if draft_model else None
        self.mtp = draft_model if isinstance(draft_model, MtpConversation) else None
        self._use_ngrams = use_ngrams
        self._max_drafted, self._tree_sizes = max_drafted, tree_sizes
        self._limits = limits
        self.needs_hidden = self._drafter.heads is not None
        self._has_other_source = use_ngrams or self.needs_hidden or n_lookahead > 0
        self._index = NgramIndex()
        self._throughput = Throughput()
        seconds = costs.at(0)[: self._max_drafted + 1]
        self._selector = TreeSelector(seconds, self._throughput, tree_sizes=tree_sizes)
        self._n_passes = 0
        self._draft, self._n_lookahead_next = NO_DRAFT, 0
        self._predictions: list[list[tuple[AcceptanceRates, dict[int, int]]]] = []
        """By chain and depth, what was drafted: its rates, and the bucket of each token, best token first."""

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a conversation that holds ``tokens``, the root last."""
        if self._use_ngrams:
            self._index.reset_to(tokens)
        self._draft, self._n_lookahead_next, self._predictions = NO_DRAFT, 0, []
        if self._draft_model:
            self._draft_model.begin(tokens)
        self._n_passes = 0
        self._throughput = Throughput()

    def may_draft(self, sampler: Sampler) -> bool:
        """Return whether there is a source of drafts, such as a grammar of ``sampler`` that forces tokens."""
        has_source = self._has_other_source or self._draft_model is not None
        return has_source or sampler is not sampler.unconstrained

    def rests(self, new_tokens: Sequence[int], depth: int, seconds: float | None) -> bool:
        """Return whether there is nothing to plan after a pass that yielded ``new_tokens``: the only source
        is a draft model that rests. The costs are corrected all the same: if they were too high, drafts would
        look cheap."""
        if self._draft_model is None or not self._draft_model.rests(new_tokens):
            return False
        if seconds is not None:
            self._costs.observe(1, depth, seconds)
        return True

    def tree(self, root: int) -> DraftTree:
        """Return the tree that ``learn`` has planned for the next pass."""
        return self._draft.below(root, self._n_lookahead_next)

    def learn(self, result: StepResult) -> None:
        """Learn from a pass, and plan the next one."""
        began = time.perf_counter()
        estimates = self._statistics.estimates(result.sampler.sampling.temperature)
        self._observe(result, estimates)
        selector = self._price(result)
        builder = DraftBuilder()
        by_rejection = result.rule == REJECTION
        guide = GrammarGuide(result.sampler, result.history, builder, by_rejection=by_rejection)
        if self._use_ngrams:
            self._draft_ngrams(builder, selector, estimates.ngrams, guide, by_rejection=by_rejection)
        if not guide.forces(0):
            self._draft_heads(builder, selector, estimates, guide, result)
            self._ask_draft_model(builder, selector, estimates, guide, result)
        guide.draft_forced()
        self._select(builder.build(), selector, result.new_tokens[-1])
        elapsed = time.perf_counter() - began
        if self._draft_model and self._plans_for_draft_model_alone(result.sampler):
            is_plain = len(result.tree.tokens) == 1 and not self._draft.tokens
            self._draft_model.planned_alone(selector, elapsed, is_plain=is_plain)
        self._throughput.record(len(result.new_tokens) + result.n_sharing - 1, result.seconds + elapsed)

    def _plans_for_draft_model_alone(self, sampler: Sampler) -> bool:
        return not self._has_other_source and sampler is sampler.unconstrained

    # -- observe --------------------------------------------------------------------------------------

    def _observe(self, result: StepResult, estimates: AcceptanceEstimates) -> None:
        """Correct the costs by the time of the pass, and the acceptance rates by its tokens."""
        seconds = result.seconds - result.replay_seconds
        self._costs.observe(result.rows, result.depth, seconds, 1 / result.n_sharing)
        self._observe_chains(result.new_tokens)
        if self._draft_model:
            self._draft_model.observe(result)
        if self._use_ngrams:
            self._observe_ngrams(result, estimates.ngrams)

    def _observe_chains(self, new_tokens: Sequence[int]) -> None:
        """Compare what heads and the draft model have drafted, in the tree or not, with ``new_tokens``."""
        for chain in self._predictions:
            for (rates, buckets), new in zip(chain, new_tokens, strict=False):
                for token, bucket in buckets.items():
                    rates.observe(bucket, token == new)
                if new != next(iter(buckets)):  # deeper predictions followed another token
                    break
        self._predictions = []

    def _observe_ngrams(self, result: StepResult, rates: AcceptanceRates) -> None:
        """Compare what the index would have drafted with the new tokens, and add these to it. A token that a
        grammar forced says nothing about n-grams."""
        for position, new in enumerate(result.new_tokens, result.depth + 1):
            if position not in result.sampler.forced_positions:
                for token, match_length, agreement, _ in self._index.continuations():
                    rates.observe(ngram_bucket(match_length, agreement), token == new)
            self._index.append(new)

    # -- price ----------------------------------------------------------------------------------------

    def _price(self, result: StepResult) -> TreeSelector:
        """Return the selector for the next pass, with new costs from time to time, and whenever the number of
        conversations that share passes has changed."""
        if self._n_passes % _REPLAN_INTERVAL == 0 or result.n_active != self._selector.n_sharing:
            self._selector = self._new_selector(result)
        self._n_passes += 1
        self._selector.last_drafted = len(result.tree.tokens) - 1
        return self._selector

    def _new_selector(self, result: StepResult) -> TreeSelector:
        seconds = self._costs.at(result.depth + len(result.new_tokens))
        selector = TreeSelector(
            self._seconds_beside_others(seconds, result)[: self._max_drafted + 1],
            self._throughput,
            result.n_active,
            self._tree_sizes,
            self._costs.rebuild_seconds if result.n_active == 1 else 0.0,
            self._limits,
            seconds,
        )
        selector.padding_spent = self._selector.padding_spent
        return selector

    def _seconds_beside_others(self, seconds: Doubles, result: StepResult) -> Doubles:
        """Return the time of 1, 2, … rows of this conversation together with the rows of the others."""
        if not self._limits.chains_only:
            return seconds[min(result.other_rows, len(seconds) - 1) :]
        n_others = min(result.n_active, len(seconds)) - 1
        if not n_others:
            return seconds
        # the others share a plain pass with a single root, but not with a chain
        return np.concatenate([seconds[n_others : n_others + 1], seconds[n_others - 1] + seconds[1:]])

    # -- draft n-grams --------------------------------------------------------------------------------

    def _draft_ngrams(
        self,
        builder: DraftBuilder,
        selector: TreeSelector,
        rates: AcceptanceRates,
        guide: GrammarGuide,
        *,
        by_rejection: bool,
    ) -> None:
        """Draft from the conversation, most likely token first, as long as one more token may pay."""
        serial = itertools.count()
        root: _Candidate = (-1.0, next(serial), 0, None, self._index.continuations())
        candidates = [root]
        for n_popped in range(selector.max_drafted + 1):  # the root is the first
            if not candidates or -candidates[0][0] < selector.min_probability[max(0, n_popped - 1)]:
                return
            negated, _, node, token, continuations = heapq.heappop(candidates)
            if token is not None:
                proposal = Distribution(np.array([token]), np.ones(1)) if by_rejection else None
                node = builder.add(node, token, -negated, proposal)
            for token, match_length, agreement, following in continuations:
                rate = guide.rate(node, token, rates.rate(ngram_bucket(match_length, agreement)))
                if rate:
                    heapq.heappush(candidates, (negated * rate, next(serial), node, token, following))
                # a proposal distribution of one token has no second child, and neither has a chain
                if by_rejection or self._limits.chains_only:
                    break

    # -- draft heads ----------------------------------------------------------------------------------

    def _draft_heads(
        self,
        builder: DraftBuilder,
        selector: TreeSelector,
        estimates: AcceptanceEstimates,
        guide: GrammarGuide,
        result: StepResult,
    ) -> None:
        """Draft from what the pass left: from lookahead outputs if it had lookahead tokens, else from its
        hidden state where heads are likely to pay. Record the gain of the source."""
        allowed, known = _allows_another_source(builder, result), self._statistics.heads
        if len(result.output.lookahead_logits):
            seconds = self._costs.at(result.depth)
            paid = seconds[result.rows - 1] - seconds[result.rows - 1 - sum(result.tree.lookahead)]
            chain = self._drafter, known, estimates.lookahead, builder, selector, guide, result
            gain = self._gain_of(partial(self._draft_chain, *chain), builder, selector) if allowed else 0.0
            self._statistics.lookahead_trials.record(gain - paid)
        elif allowed and self.needs_hidden and selector.min_probability[0] < 1:
            trials = known.trials(
                selector.n_sharing,
                builder.best_probability,
                starts_rare=selector.n_sharing > 1 and selector.min_probability[0] > LIKELY,
            )
            if trials.is_due():
                chain = self._drafter, known, estimates.hidden, builder, selector, guide, result
                trials.record(self._gain_of(partial(self._draft_chain, *chain), builder, selector))

    def _ask_draft_model(
        self,
        builder: DraftBuilder,
        selector: TreeSelector,
        estimates: AcceptanceEstimates,
        guide: GrammarGuide,
        result: StepResult,
    ) -> None:
        """Draft from the draft model where it is likely to pay."""
        use, began = self._draft_model, time.perf_counter()
        if not use or not _allows_another_source(builder, result):
            return
        if use.is_due(selector, builder):
            if not self._plans_for_draft_model_alone(result.sampler):
                root = result.new_tokens[-1]
                use.expect(selector, selector.select(builder.build(), 0, root).below(root))
            chain = use.conversation, self._statistics.draft_model, estimates.draft_model
            self._draft_chain(*chain, builder, selector, guide, result)
        use.spend(selector, time.perf_counter() - began)

    @staticmethod
    def _gain_of(draft: Callable[[], None], builder: DraftBuilder, selector: TreeSelector) -> float:
        """Call ``draft``. Return its estimated gain in seconds: the value of the drafts that it added to
        ``builder``, less the time that it took."""
        began, value_before = time.perf_counter(), selector.value(builder.build())
        draft()
        gain = (selector.value(builder.build()) - value_before) / selector.tokens_per_second
        return gain - (time.perf_counter() - began)

    def _draft_chain(
        self,
        source: DraftSource,
        known: ChainStatistics,
        rates: AcceptanceRates,
        builder: DraftBuilder,
        selector: TreeSelector,
        guide: GrammarGuide,
        result: StepResult,
    ) -> None:
        """Draft a chain from ``source``, with alternatives at each depth. ``known``, ``rates``: what is known
        of it."""
        token_began = time.perf_counter()
        node, path_probability = 0, 1.0
        self._predictions.append([])
        for depth, draft_token in enumerate(source.draft_tokens(result)):
            token_rates = self._rates_of(depth, draft_token, rates)
            known.observe(depth, token_rates[draft_token.token])
            probabilities = {
                token: path_probability * guide.rate(node, token, rate) for token, rate in token_rates.items()
            }
            nodes = {
                token: builder.add(node, token, probability, draft_token.proposal)
                for token, probability in probabilities.items()
                if probability and probability >= selector.min_probability[0]
            }
            if draft_token.token not in nodes:
                break
            node, path_probability = nodes[draft_token.token], probabilities[draft_token.token]
            # draft another token only if its expected value, less its row, exceeds the time it takes
            now = time.perf_counter()
            expected = path_probability * known.probability(depth + 1)
            if expected - selector.min_probability[0] < selector.tokens_per_second * (now - token_began):
                known.observe(depth + 1, known.probability(depth))  # or it would never be tried again
                break
            token_began = now

    def _rates_of(self, depth: int, draft_token: DraftToken, rates: AcceptanceRates) -> dict[int, float]:
        """Return the acceptance rate of each token drafted at ``depth``, if all above it are right, and note
        the prediction for ``_observe_chains``."""
        buckets = {draft_token.token: head_bucket(depth, draft_token.confidence)}
        buckets |= {
            token: head_bucket(depth, confidence, alternative=True)
            for token, confidence in draft_token.alternatives
        }
        self._predictions[-1].append((rates, buckets))
        return {token: rates.rate(bucket) for token, bucket in buckets.items()}

    # -- select ---------------------------------------------------------------------------------------

    def _select(self, draft: Draft, selector: TreeSelector, root: int) -> None:
        """Keep the part of ``draft`` that is worth most for the next pass, which starts from ``root``, with
        lookahead tokens where they are due."""
        look_ahead = self._n_lookahead and self._statistics.lookahead_trials.is_due()
        self._n_lookahead_next = self._n_lookahead if look_ahead else 0
        self._draft = selector.select(draft, self._n_lookahead_next, root)
        selector.count_padding(self._draft)


def _allows_another_source(builder: DraftBuilder, result: StepResult) -> bool:
    """With the rejection rule all children of a node come from one distribution, so from one source."""
    return not (result.rule == REJECTION and builder)


def may_look_ahead(costs: StepCosts, *, has_hidden_head: bool = False) -> bool:
    """Return whether lookahead tokens can pay at all with these costs.

    A pass that verifies one draft, with a lookahead token at both nodes, has four rows. It must cost less
    than two plain passes; or, where a hidden head drafts as well at no row, less than a pass over two rows
    and the time of the head.
    """
    seconds = costs.at(0)
    if len(seconds) < 4:
        return False
    limit = seconds[1] + _HEAD_COST * seconds[0] if has_hidden_head else 2 * seconds[0]
    return bool(seconds[3] < limit)
