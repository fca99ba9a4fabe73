"""Settings that cannot be are refused before anything is loaded; those that can reach llama.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest

from pass_edge import Engine, Settings, SettingsError


def test_only_so_many_conversations_fit() -> None:
    with pytest.raises(SettingsError, match="parallel"):
        Settings(parallel=17)
    with pytest.raises(SettingsError, match="parallel"):
        Settings(parallel=0)


@pytest.mark.parametrize("flash_attn", ["on", "off", "auto"])
def test_flash_attention_can_be_chosen(flash_attn: str, tiny_path: Path) -> None:
    settings = Settings(schedule="plain", flash_attn=flash_attn, context_size=64)
    with Engine(tiny_path, settings=settings) as engine:
        assert len(engine.stream([1, 2], max_tokens=4).run().ids) == 4


def test_flash_attention_has_three_values() -> None:
    with pytest.raises(SettingsError, match="flash-attn"):
        Settings(flash_attn="perhaps")


def test_cache_types_are_checked_before_anything_is_measured() -> None:
    with pytest.raises(SettingsError, match="unknown KV cache type 'q9'; known are f32, f16"):
        Settings(cache_type_v="q9")
    assert Settings(cache_type_k="Q8_0").cache_type_k == "Q8_0"
