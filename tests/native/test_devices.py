"""The devices that llama.cpp finds here."""

from __future__ import annotations

from pass_edge.native.devices import devices


def test_there_is_a_cpu() -> None:
    assert any(device.kind == "cpu" for device in devices())
