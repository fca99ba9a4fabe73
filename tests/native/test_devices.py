"""The devices that llama.cpp finds here."""

from __future__ import annotations

import pytest

from pass_edge.native.available_memory import available_memory
from pass_edge.native.devices import cpu_device, device_names, devices


def test_the_cpu_is_found_with_this_machines_memory() -> None:
    (cpu,) = [device for device in devices() if device.kind == "cpu"]
    assert available_memory() < cpu.total_memory < 100 * available_memory()
    assert 0 < cpu.free_memory <= cpu.total_memory


def test_devices_are_named_in_their_order() -> None:
    assert device_names() == [f"{device.name}: {device.description}" for device in devices()]


def test_the_handle_of_the_cpu_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pass_edge.native.devices._handles", lambda: [cpu_device()])
    assert [device.kind for device in devices()] == ["cpu"]
