"""A frozen model in torch, read from its GGUF file, and the two ways in which training runs it.

*Reading* a text is one causal pass without gradient that keeps the keys and values of every layer. *Looking
ahead* runs lookahead groups after many tokens of that text, the *anchors*, with these keys and values:

    row        prefix j = 0 … P-1     row k = 0 … L-1 of the group after the anchor at t
    position   j                      t + 1 + k
    sees       prefix rows 0 … j      text 0 … t, the prefix, rows 0 … k of its group

A prefix row sees the prefix alone, and the text sees no prefix. So llama.cpp can decode the prefix once, as a
sequence of its own from position 0 on, and share its cells with the sequences of the lookahead groups. (A row
sees the cells of the last of its sequences, so a token in a group's sequence must list its own sequence
last.) As everywhere in llama.cpp, no row sees a later position, nor, in layers with a sliding window, a
position outside the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pass_edge.native.errors import ModelError
from pass_edge.native.model import check_is_gguf

from .device import fastest_dtype

_ATTENTION = "pass_edge"


class FrozenModel:
    """A frozen model on a device. Attributes: ``n_embd``, ``n_vocab``, ``device``; ``dtype``: of its matrix
    products and of the keys and values of a text; all else is float32."""

    def __init__(
        self, path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ):
        """``dtype``: by default the fastest of ``device``. Raises ModelError if transformers cannot read the
        file, or does not support its architecture."""
        self.device = torch.device(device)
        self.dtype = dtype or fastest_dtype(self.device)
        model = _load(check_is_gguf(Path(path))).to(self.device)
        self._body, self._embed = model.get_decoder(), model.get_input_embeddings()
        self._output = model.get_output_embeddings().weight.detach().to(self.dtype)
        for module in self._body.modules():
            if isinstance(module, nn.Linear):
                module.to(self.dtype)
        self.n_vocab, self.n_embd = self._output.shape

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the inputs of the first layer for (…) token ids: (…, n_embd)."""
        with torch.no_grad():
            return self._embed(ids)

    def read(self, ids: npt.NDArray[np.int32]) -> Reading:
        """Run one causal pass over a text of (n,) ``ids``."""
        tokens = torch.from_numpy(ids.astype(np.int64)).to(self.device)
        text_attention = _TextAttention()
        with torch.no_grad():
            hidden = self._run(self.embed(tokens), torch.arange(len(ids), device=self.device), text_attention)
        return Reading(tokens, hidden, tuple(text_attention.keys), tuple(text_attention.values))

    def look_ahead(
        self, reading: Reading, anchors: torch.Tensor, embeddings: torch.Tensor, prefix: torch.Tensor
    ) -> torch.Tensor:
        """Run a lookahead group of ``embeddings`` (L, n_embd) after each position of ``anchors`` (A,), with
        ``prefix`` (P, n_embd). Return the (A, L, n_embd) outputs of the last norm. Gradients are kept."""
        length = len(embeddings)
        positions = anchors[:, None] + torch.arange(1, length + 1, device=self.device)
        lookahead_attention = _LookaheadAttention(reading, anchors, positions, len(prefix))
        rows = torch.cat([prefix, embeddings.repeat(len(anchors), 1)])
        own = torch.arange(len(prefix), device=self.device)
        states = self._run(rows, torch.cat([own, positions.flatten()]), lookahead_attention)
        return states[len(prefix) :].view(len(anchors), length, -1)

    def logits(self, states: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Return the (…, n_vocab) float32 logits of (…, n_embd) ``states``, or only those of ``tokens``."""
        weight = self._output if tokens is None else self._output[tokens]
        return nn.functional.linear(states.to(self.dtype), weight).float()

    def _run(
        self, rows: torch.Tensor, positions: torch.Tensor, attention: _TextAttention | _LookaheadAttention
    ) -> torch.Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = self._body(
                inputs_embeds=rows[None],
                position_ids=positions[None],
                use_cache=False,
                pass_edge=attention,  # is passed to _attend in every layer
            )
        return output.last_hidden_state[0].float()


def _load(path: Path) -> Any:
    import transformers

    transformers.AttentionInterface.register(_ATTENTION, _attend)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation=_ATTENTION
        )
    except (ValueError, KeyError, NotImplementedError, ImportError) as error:
        raise ModelError(f"{path} cannot be trained on: transformers cannot read it ({error})") from error
    return model.requires_grad_(False).eval()


class Text(Protocol):
    """A prompt and the model's answer: ``ids`` (n,) int32, the first ``prompt_length`` of them the prompt."""

    @property
    def ids(self) -> npt.NDArray[np.int32]: ...

    @property
    def prompt_length(self) -> int: ...


# -- attention: queries and outputs are (key heads, query heads for each, n, head size) ---------------


@dataclass(frozen=True)
class Reading:
    """The result of reading a text: ``ids`` (n,); ``hidden`` (n, n_embd) float32, the outputs of the last
    norm; and for each layer ``keys`` and ``values`` (key heads, n, head size)."""

    ids: torch.Tensor
    hidden: torch.Tensor
    keys: Sequence[torch.Tensor]
    values: Sequence[torch.Tensor]


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    pass_edge: _TextAttention | _LookaheadAttention,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    if softcap is not None:
        raise ModelError("models that cap their attention scores (Gemma 2) cannot be trained on yet")
    groups = query.shape[1] // key.shape[1]
    query = (query[0] * scaling).unflatten(0, (-1, groups))
    states = pass_edge.attend(module.layer_idx, query, key[0], value[0], sliding_window)
    return states.flatten(0, 1).transpose(0, 1)[None], None


@dataclass
class _TextAttention:
    """Causal attention over a text. Keeps the keys and values of all layers."""

    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        self.keys.append(key)
        self.values.append(value)
        positions = torch.arange(key.shape[1], device=key.device)
        causal = {"is_causal": True} if not window or window >= len(positions) else {}
        mask = None if causal else _visible(positions, positions, window)
        heads = query.flatten(0, 1)[None]
        key, value = (x.repeat_interleave(query.shape[1], 0)[None] for x in (key, value))
        states = nn.functional.scaled_dot_product_attention(heads, key, value, mask, scale=1.0, **causal)
        return states[0].unflatten(0, query.shape[:2])


class _LookaheadAttention:
    """Attention of a prefix and of lookahead groups, as described at the top. ``positions``: (A, L)."""

    def __init__(
        self, reading: Reading, anchors: torch.Tensor, positions: torch.Tensor, n_prefix: int
    ) -> None:
        self._reading = reading
        self._shape, self._n_prefix = positions.shape, n_prefix
        rows = positions.flatten()
        text = torch.arange(len(reading.ids), device=rows.device)
        prefix = torch.arange(n_prefix, device=rows.device)
        before = text <= anchors.repeat_interleave(positions.shape[1])[:, None]

        @cache
        def biases(window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
            own = _visible(positions, positions, window).flatten(0, 1)
            seen = torch.cat([before & _visible(rows, text, window), _visible(rows, prefix, window), own], -1)
            return _bias(seen), _bias(_visible(prefix, prefix, window))

        self._biases = biases

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        bias, prefix_bias = self._biases(window)
        n = self._n_prefix
        text_key, text_value = self._reading.keys[layer], self._reading.values[layer]
        prefix_key, prefix_value = key[:, :n], value[:, :n]
        own_key, own_value = (x[:, n:].unflatten(1, self._shape) for x in (key, value))
        prefix_weights = _softmax(_matmul(query[:, :, :n], prefix_key.mT), prefix_bias, value.dtype)
        prefix = _matmul(prefix_weights, prefix_value)
        rows = query[:, :, n:]
        scores = [
            _matmul(rows, text_key.mT),
            _matmul(rows, prefix_key.mT),
            _matmul_by_anchor(rows, own_key.mT),
        ]
        weights = _softmax(torch.cat(scores, -1), bias, value.dtype)
        on_text, on_prefix, on_own = weights.split([part.shape[-1] for part in scores], -1)
        states = _matmul(on_text, text_value) + _matmul(on_prefix, prefix_value)
        states = states + _matmul_by_anchor(on_own, own_value)
        return torch.cat([prefix, states], 2)


def _visible(rows: torch.Tensor, keys: torch.Tensor, window: int | None) -> torch.Tensor:
    """Return whether rows at positions (…, n) see keys at positions (…, m) of their sequence: (…, n, m)."""
    distance = rows[..., :, None] - keys[..., None, :]
    return (distance >= 0) & (distance < window) if window else distance >= 0


def _bias(visible: torch.Tensor) -> torch.Tensor:
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, -torch.inf)


def _softmax(scores: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (scores.float() + bias).softmax(-1).to(dtype)


def _matmul(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Multiply (heads, groups, n, x) by (heads, x, m): all groups of a head in one product."""
    return (rows.flatten(1, 2) @ matrix).unflatten(1, rows.shape[1:3])


def _matmul_by_anchor(rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Multiply (heads, groups, A · L, x) by (heads, A, x, m): each anchor's rows by the anchor's matrix."""
    by_anchor = rows.unflatten(2, (matrices.shape[1], -1))
    return (by_anchor @ matrices[:, None]).flatten(2, 3)
