"""The folder of measurements: what cannot be kept or read there is measured again, and nothing breaks."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from pass_edge import Engine, Settings
from pass_edge.calibration import measurement_cache
from pass_edge.calibration.measurement_cache import cache_folder, load, store, take_problem
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.engine_setup import loaded_model
from pass_edge.native.library_probe import WORKS

VALUE = {"width": 32, "difference": 0.1, "repack": True}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_value_is_kept_for_its_key() -> None:
    store("kind", "key", VALUE)
    assert load("kind", "key") == VALUE
    assert load("kind", "other") is None
    assert load("other", "key") is None
    assert take_problem() == ""


def test_a_key_of_bytes_that_are_no_utf_8() -> None:
    store("kind", os.fsdecode(b"caf\xe9.gguf"), VALUE)
    assert load("kind", os.fsdecode(b"caf\xe9.gguf")) == VALUE


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "truncated": lambda text: text[: len(text) // 2],
    "not JSON": lambda text: b"hello",
    "not UTF-8": lambda text: b"\xff" + text,
    "a list": lambda text: b"[]",
    "a number": lambda text: b"7",
    "null": lambda text: b"null",
    "deep": lambda text: b"[" * 100_000,
    "another value": lambda text: text.replace(b"32", b"31"),
    "another type": lambda text: text.replace(b"32", b'"32"'),
    "a missing field": lambda text: text.replace(b'"width": 32, ', b""),
    "a value alone": lambda text: json.dumps(VALUE).encode(),
    "a list as the hash": lambda text: json.dumps({"value": VALUE, "sha256": []}).encode(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_entry_is_none(damage: Callable[[bytes], bytes], folder: Path) -> None:
    store("kind", "key", VALUE)
    (file,) = folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert load("kind", "key") is None
    store("kind", "key", VALUE)
    assert load("kind", "key") == VALUE


def test_an_entry_of_another_key_is_none(folder: Path) -> None:
    store("kind", "key", VALUE)
    store("kind", "other", 7)
    key, other = (measurement_cache._file("kind", name) for name in ("key", "other"))
    os.replace(other, key)
    assert load("kind", "key") is None


def unwritable(path: Path) -> None:
    path.mkdir()
    path.chmod(0o500)


FOLDERS: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_text("precious"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nowhere": lambda path: path.symlink_to(path / "none" / "none"),
    "a folder in a file": lambda path: path.parent.joinpath("cache").write_text(""),
    "read-only": unwritable,
}


@pytest.mark.parametrize("make", FOLDERS.values(), ids=FOLDERS.keys())
def test_a_folder_that_cannot_be_used_is_told_once(
    make: Callable[[Path], object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder)
    if make is unwritable and os.access(folder, os.W_OK):
        pytest.skip("the superuser may write everywhere")
    if make is FOLDERS["a folder in a file"]:
        monkeypatch.setenv("PASS_EDGE_CACHE", str(folder / "inside"))
    for _ in range(2):
        assert load("kind", "key") is None
        store("kind", "key", VALUE)
    told = take_problem()
    assert str(folder) in told
    assert "PASS_EDGE_CACHE" in told
    assert take_problem() == ""
    if folder.is_file():
        assert folder.read_text() in ("precious", "")


def test_an_engine_runs_without_the_folder_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, speaking_path: Path
) -> None:
    folder.write_text("precious")
    monkeypatch.setattr("pass_edge.calibration.calibration.probe", lambda: WORKS)
    with Engine(speaking_path, settings=Settings(threads=1)) as engine:
        assert len(engine.stream("yes", max_tokens=3).run().ids) == 3
        assert len([note for note in engine.notes if "PASS_EDGE_CACHE" in note]) == 1


def test_a_vocabulary_is_hashed_once_for_a_file(speaking_path: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(speaking_path, tmp_path / "model.gguf"))

    def vocabularies_hashed() -> int:
        with (
            mock.patch.object(loaded_model, "read_base", wraps=read_base) as read,
            Engine(path, settings=Settings(threads=1)) as engine,
        ):
            assert engine.base == read_base(path)
        return read.call_count

    assert [vocabularies_hashed(), vocabularies_hashed()] == [1, 0]
    os.utime(path, ns=(0, 0))  # another file
    assert vocabularies_hashed() == 1


def test_a_disk_that_refuses_to_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measurement_cache.os, "replace", full)
    store("kind", "key", VALUE)
    assert "No space left on device" in take_problem()
    assert take_problem() == ""
    assert list(folder.iterdir()) == []


def test_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PASS_EDGE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where the system does not know the user
    with pytest.raises(OSError, match="no home"):
        cache_folder()
    store("kind", "key", VALUE)
    assert "no home" in take_problem()
    assert load("kind", "key") is None
    assert list(tmp_path.iterdir()) == []


def test_xdg_cache_home_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PASS_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    store("kind", "key", VALUE)
    assert load("kind", "key") == VALUE
    assert [path.name for path in tmp_path.iterdir()] == ["xdg"]


def test_measurements_of_another_number_of_cpus_are_not_used(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = set()
    for cpus in (1, 2):
        monkeypatch.setattr(measurement_cache, "default_threads", lambda cpus=cpus: cpus)
        keys |= {measurement_cache.run_key(tiny_path, Settings(threads=threads)) for threads in (None, 1, 2)}
    assert len(keys) == 4  # a number that the user gave is the same everywhere
