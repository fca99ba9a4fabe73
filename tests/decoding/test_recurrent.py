"""A recurrent model: its memory cannot be rolled back in part, so it must decode plainly and say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from pass_edge import Engine, Lookahead, Sampling
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.native.model import Model

N_VOCAB, N_EMBD, N_INNER, N_STATE, N_RANK, N_CONV = 32, 64, 128, 16, 4, 4


@pytest.fixture(scope="module")
def mamba_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mamba of one layer (Gu, Dao 2023, arXiv 2312.00752, section 3.4)."""
    path = tmp_path_factory.mktemp("mamba") / "mamba.gguf"
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)

    writer = GGUFWriter(path, "mamba")
    writer.add_name("tiny random Mamba")
    writer.add_context_length(1024)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(1)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_ssm_conv_kernel(N_CONV)
    writer.add_ssm_inner_size(N_INNER)
    writer.add_ssm_state_size(N_STATE)
    writer.add_ssm_time_step_rank(N_RANK)
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model("no_vocab")
    tensors = {
        "token_embd.weight": weights(N_VOCAB, N_EMBD) * np.float32(8),
        "output_norm.weight": np.ones(N_EMBD, np.float32),
        "output.weight": weights(N_VOCAB, N_EMBD) * np.float32(2),
        "blk.0.attn_norm.weight": np.ones(N_EMBD, np.float32),
        "blk.0.ssm_in.weight": weights(2 * N_INNER, N_EMBD),
        "blk.0.ssm_conv1d.weight": weights(N_INNER, N_CONV),
        "blk.0.ssm_conv1d.bias": np.zeros(N_INNER, np.float32),
        "blk.0.ssm_x.weight": weights(N_RANK + 2 * N_STATE, N_INNER),
        "blk.0.ssm_dt.weight": weights(N_INNER, N_RANK),
        "blk.0.ssm_dt.bias": np.zeros(N_INNER, np.float32),
        "blk.0.ssm_a": -np.tile(np.arange(1, N_STATE + 1, dtype=np.float32), (N_INNER, 1)),
        "blk.0.ssm_d": np.ones(N_INNER, np.float32),
        "blk.0.ssm_out.weight": weights(N_EMBD, N_INNER),
    }
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_recurrent_model_decodes_plainly_and_says_so(mamba_path: Path) -> None:
    with Model(mamba_path) as model:
        base = read_base(model.path)
    lookahead = Lookahead(np.ones((2, N_EMBD), np.float32), base)
    with Engine(mamba_path, lookahead=lookahead) as engine:
        assert engine.schedule == "plain"
        assert any("cannot be rolled back" in note for note in engine.notes)
        whole = engine.stream([1, 2, 3], sampling=Sampling(temperature=0), max_tokens=12).run().ids
        assert len(whole) == 12
        # what is common with the last conversation cannot be kept, and must not leak into the next one
        other = engine.stream([1, 2, 5], sampling=Sampling(temperature=0), max_tokens=12).run().ids
        again = engine.stream([1, 2, 3], sampling=Sampling(temperature=0), max_tokens=12)
        assert again.run().ids == whole != other
        assert again.stats.reused_tokens == 0


def test_a_recurrent_session_can_be_saved(mamba_path: Path, tmp_path: Path) -> None:
    greedy = Sampling(temperature=0)
    with Engine(mamba_path) as engine:
        engine.stream([1, 2, 3], sampling=greedy, max_tokens=12).run()
        tokens = [*engine.session.tokens, engine.session.root]
        engine.session.save(tmp_path / "s", kv=True)
        expected = engine.stream(tokens, sampling=greedy, max_tokens=12).run()
        assert engine.session.load(tmp_path / "s").cache is not None
        again = engine.stream(tokens, sampling=greedy, max_tokens=12).run()
    assert again.ids == expected.ids
    assert again.stats.reused_tokens == expected.stats.reused_tokens == len(tokens) - 1
