"""A model with two contexts, to compare drafted decoding to plain decoding bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pass_edge.decoding.batcher import Batcher, BatchResult, InputEmbeddings
from pass_edge.decoding.kv_cache import sequences_needed
from pass_edge.decoding.session import Session, Step
from pass_edge.drafting.schedules import FixedSchedule, plain
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.model import Model
from pass_edge.sampling.sampler import Sampler, Sampling
from tests.support.draft_trees import N_LOOKAHEAD

GREEDY = Sampler(Sampling(temperature=0))
DEPTH = 5
CACHE = {"cache_type_k": "q8_0", "cache_type_v": "f16"}


class Recording(Session):
    """A session that keeps the logits of the last decode, row by row."""

    def _finish(self, result: BatchResult, sampler: Sampler) -> Step:
        self.seen = result.logits.copy()
        return super()._finish(result, sampler)


class Bench:
    """A model with two contexts: one that is drafted in, one that only ever decodes what is committed."""

    def __init__(
        self, path: Path, cells: int, n_prefix: int = 0, threads: int = 2, rollback: int | None = None
    ) -> None:
        self.model = Model(path)
        sequences = sequences_needed(n_prefix, chains_only=self.model.is_recurrent)
        settings = ContextSettings(
            cells=cells, sequences=sequences, threads=threads, rollback=rollback, **CACHE
        )
        self.drafting = Context(self.model, settings)
        self.reference = Context(self.model, replace(settings, rollback=None))
        embeddings = TokenEmbeddings(self.model.path)
        scale = np.abs(embeddings.rows(np.arange(8, dtype=np.int32))).mean()
        rng = np.random.default_rng(1)
        rows = rng.standard_normal((N_LOOKAHEAD + n_prefix, self.model.n_embd), np.float32) * scale
        self.lookahead, self.prefix = rows[:N_LOOKAHEAD], rows[N_LOOKAHEAD:]
        self.inputs = InputEmbeddings(embeddings, self.lookahead, self.prefix)

    def session(self) -> Recording:
        return Recording(Batcher(self.drafting, self.inputs), FixedSchedule(plain))

    def truth(self, prompt: list[int], count: int) -> tuple[list[int], list[np.ndarray]]:
        """``count`` greedy tokens after ``prompt`` and the logits that gave each, decoded one by one in
        an empty context."""
        self.reference.clear()
        if len(prompt) > 1:
            self.reference.decode_tokens(
                rows_of_sequence(0, len(prompt) - 1), np.array(prompt[:-1], np.int32)
            )
        tokens, logits = [prompt[-1]], []
        for position in range(len(prompt) - 1, len(prompt) - 1 + count):
            rows = rows_of_sequence(position, 1, outputs=1)
            self.reference.decode_tokens(rows, np.array(tokens[-1:], np.int32))
            logits.append(self.reference.logits(1)[0].copy())
            tokens.append(int(logits[-1].argmax()))
        return tokens[1:], logits

    def ahead(self, tokens: list[int]) -> np.ndarray:
        """Logits of the lookahead tokens behind ``tokens``, of a sequence that nothing was drafted in."""
        self.reference.clear()
        if len(self.prefix):
            self.reference.decode_embeddings(rows_of_sequence(0, len(self.prefix), sequence=1), self.prefix)
        self.reference.decode_tokens(rows_of_sequence(0, len(tokens)), np.array(tokens, np.int32))
        self.reference.copy(0, 1, 0)
        rows = rows_of_sequence(len(tokens), N_LOOKAHEAD, sequence=1, outputs=N_LOOKAHEAD)
        self.reference.decode_embeddings(rows, self.lookahead)
        return self.reference.logits(N_LOOKAHEAD).copy()

    def close(self) -> None:
        self.drafting.close()
        self.reference.close()
        self.model.close()
