"""Invalid settings are refused before a model is loaded; flash attention reaches llama.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest

from pass_edge import Engine, Settings, SettingsError
from pass_edge.native.library import log


def test_only_so_many_conversations_fit() -> None:
    with pytest.raises(SettingsError, match="parallel"):
        Settings(parallel=17)
    with pytest.raises(SettingsError, match="parallel"):
        Settings(parallel=0)


@pytest.mark.parametrize(
    ("flash_attn", "expected"), [("on", "enabled"), ("off", "disabled"), ("auto", "enabled")]
)
def test_every_context_has_the_flash_attention_that_was_chosen(
    flash_attn: str, expected: str, tiny_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As llama.cpp logs it for each context. On the CPU, auto is on."""
    settings = Settings(schedule="plain", flash_attn=flash_attn, context_size=64)
    with caplog.at_level("INFO", log.name), Engine(tiny_path, settings=settings) as engine:
        assert len(engine.stream([1, 2], max_tokens=4).run().ids) == 4
    logged = [message.split()[-1] for message in caplog.messages if "flash_attn  " in message]
    assert set(logged) == {expected}


def test_flash_attention_has_three_values() -> None:
    with pytest.raises(SettingsError, match="flash-attn"):
        Settings(flash_attn="perhaps")


def test_cache_types_are_checked_before_anything_is_measured() -> None:
    with pytest.raises(SettingsError, match="unknown KV cache type 'q9'; known are f32, f16"):
        Settings(cache_type_v="q9")
    assert Settings(cache_type_k="Q8_0").cache_type_k == "Q8_0"
