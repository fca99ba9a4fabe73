"""Models that other programs have on this disk are found and used, and never downloaded again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pass_edge import ModelError
from pass_edge.models import find_model
from pass_edge.models.fetched import is_fetched, remove
from pass_edge.models.local_stores import stored_models
from tests.support.hub import Hub
from tests.support.model_homes import put, put_in_hub_cache, put_in_old_llama_cpp, put_in_ollama

NAME = "someone/some-GGUF"
FILE = "a-Q4_K_M.gguf"
OLLAMA = ".ollama/models"


@pytest.fixture(autouse=True)
def no_network(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    "where", ["hub", "HF_HOME", "LLAMA_CACHE", "flat", "LM Studio", "its folder", "Ollama", "own"]
)
def test_a_model_of_any_program_is_found(where: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    match where:
        case "hub":
            path = put_in_hub_cache(home / ".cache/huggingface/hub", NAME, FILE, b"GGUF")
        case "HF_HOME":
            monkeypatch.setenv("HF_HOME", str(home / "hf"))
            path = put_in_hub_cache(home / "hf/hub", NAME, FILE, b"GGUF")
        case "LLAMA_CACHE":
            monkeypatch.setenv("LLAMA_CACHE", str(home / "llama"))
            path = put_in_hub_cache(home / "llama", NAME, FILE, b"GGUF")
        case "flat":
            path = put_in_old_llama_cpp(home / ".cache/llama.cpp", NAME, FILE, b"GGUF")
        case "LM Studio":
            path = put(home / ".lmstudio/models" / NAME / FILE)
        case "its folder":
            put(home / ".lmstudio/settings.json", json.dumps({"downloadsFolder": str(home / "big")}).encode())
            path = put(home / "big" / NAME / FILE)
        case "Ollama":
            path = put_in_ollama(home / OLLAMA, f"hf.co/{NAME}/Q4_K_M", b"GGUF")
        case "own":
            monkeypatch.setenv("PASS_EDGE_MODELS", os.pathsep.join(["/none", str(home / "mine")]))
            path = put(home / "mine" / NAME / FILE)
    for name in (NAME, f"{NAME}:Q4_K_M", f"{NAME}:q4_k_m", NAME.upper()):
        assert find_model(name).path == path
    (listed,) = stored_models()
    assert find_model(listed.name).path == path, "what is listed can be typed"
    with pytest.raises(ModelError, match="cannot be reached"):
        find_model(f"{NAME}:Q8_0")


def test_the_best_of_what_is_here_is_taken(home: Path) -> None:
    notes: list[str] = []
    put(home / ".lmstudio/models" / NAME / "a-Q2_K.gguf")
    assert find_model(NAME, note=notes.append).path.name == "a-Q2_K.gguf"
    assert notes == [f"{NAME} is {NAME}:Q2_K of LM Studio, which is here already"]
    put_in_hub_cache(home / ".cache/huggingface/hub", NAME, "a-Q8_0.gguf", b"GGUF8")
    assert find_model(NAME).path.name == "a-Q8_0.gguf"


@pytest.mark.parametrize(
    ("manifest", "names"),
    [
        ("registry.ollama.ai/library/qwen2.5/0.5b", ["ollama:qwen2.5:0.5b"]),
        (
            "registry.ollama.ai/library/qwen/latest",
            ["ollama:qwen", "ollama:qwen:latest", "ollama:library/qwen"],
        ),
        ("registry.ollama.ai/me/mine/v1", ["ollama:me/mine:v1"]),
        ("hf.co/me/mine-GGUF/Q8_0", ["ollama:hf.co/me/mine-GGUF:Q8_0", "me/mine-GGUF:Q8_0"]),
    ],
)
@pytest.mark.parametrize("moved", [False, True])
def test_ollamas_models(
    manifest: str, names: list[str], moved: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / ("elsewhere" if moved else OLLAMA)
    if moved:
        monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    path = put_in_ollama(folder, manifest, b"GGUF")
    for name in names:
        assert find_model(name).path == path
    (listed,) = stored_models()
    assert find_model(listed.name).path == path


def test_what_ollama_has_and_cannot_be_used(home: Path) -> None:
    with pytest.raises(
        ModelError, match=r"it has no models that can be used. `ollama pull qwen:latest` gets it"
    ):
        find_model("ollama:qwen")
    put_in_ollama(home / OLLAMA, "registry.ollama.ai/library/tuned/latest", b"GGUF1", adapter=True)
    put_in_ollama(home / OLLAMA, "registry.ollama.ai/library/tensors/latest", b"GGUF2", kind="tensor")
    blob = put_in_ollama(home / OLLAMA, "registry.ollama.ai/library/gone/latest", b"GGUF3")
    blob.unlink()
    put(home / OLLAMA / "manifests/registry.ollama.ai/library/damaged/latest", b"{")
    put(home / OLLAMA / "manifests/registry.ollama.ai/library/odd/latest", b'{"layers": 3}')
    put(home / OLLAMA / "manifests/stray", b"")
    put_in_ollama(home / OLLAMA, "registry.ollama.ai/library/good/latest", b"GGUF4")
    for name in ("tuned", "tensors", "gone", "damaged", "odd"):
        with pytest.raises(ModelError, match="without an adapter here; it has ollama:good:latest"):
            find_model(f"ollama:{name}")
    assert [model.name for model in stored_models()] == ["ollama:good:latest"]


def test_what_is_listed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = home / ".cache/huggingface/hub"
    for file in ("a-Q4_K_M.gguf", "a-Q8_0.gguf", "mmproj-a-f16.gguf", "a.pass.gguf", "b-00002-of-00002.gguf"):
        put_in_hub_cache(cache, NAME, file, file.encode())
    put(cache / "models--someone--some-GGUF/blobs/x.incomplete")
    put(cache / "datasets--someone--data/snapshots/1/x.gguf")
    put(home / ".cache/llama.cpp/loose-Q8_0.gguf", b"GGUF1")
    put(home / ".lmstudio/models/pub/split/m-Q4_0-00001-of-00002.gguf", b"GGUF2")
    (home / ".lmstudio/models/pub/broken-link.gguf").symlink_to("nowhere")
    first = put(home / "mine/x-00001-of-00002.gguf", b"GGUF3")
    put(home / "mine/x-00002-of-00002.gguf", b"GGUF4")
    link = home / "mine/link.gguf"
    link.symlink_to(home / ".cache/llama.cpp/loose-Q8_0.gguf")
    monkeypatch.setenv("PASS_EDGE_MODELS", str(home / "mine"))
    listed = {model.name: model for model in stored_models()}
    assert list(listed) == ["link", "x-00001-of-00002", f"{NAME}:Q4_K_M", f"{NAME}:Q8_0"]
    assert listed["x-00001-of-00002"].path == first
    assert listed["x-00001-of-00002"].size == 10


def test_a_folder_that_cannot_be_read_does_not_matter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASS_EDGE_MODELS", os.pathsep.join(["/proc/1/root", "/none", "", "~/mine"]))
    monkeypatch.setenv("OLLAMA_MODELS", "/proc/1/root")
    monkeypatch.setenv("LLAMA_CACHE", "/proc/1/root")
    put(home / "mine/a.gguf")
    put(home / ".lmstudio/settings.json", b"[1]")
    put(home / ".cache/llama.cpp/manifest=a=b=c.json", b"{}")
    assert [model.name for model in stored_models()] == ["a"]


def test_only_what_we_downloaded_is_removed(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    names = ["m-Q4_0-00001-of-00002.gguf", "m-Q4_0-00002-of-00002.gguf"]
    hub.repositories[NAME] = {name: name.encode() for name in [*names, "m-Q8_0.gguf"]}
    find_model(f"{NAME}:Q4_0", progress=lambda *_: None)
    put_in_hub_cache(home / ".cache/huggingface/hub", NAME, "m-Q8_0.gguf", b"theirs", commit=_commit(home))
    models = {model.file: model for model in stored_models()}
    other = home / ".cache/huggingface/hub/models--someone--some-GGUF/snapshots/older" / names[0]
    other.parent.mkdir()
    other.symlink_to(models[names[0]].path.resolve())
    assert [is_fetched(model) for model in models.values()] == [True, False]
    with pytest.raises(ModelError, match="was not downloaded by pass-edge; it belongs to Hugging Face"):
        remove(models["m-Q8_0.gguf"])
    assert remove(models[names[0]]) == sum(map(len, names))
    assert [model.file for model in stored_models()] == ["m-Q8_0.gguf"]
    assert not other.is_symlink()
    blobs = list((home / ".cache/huggingface/hub").rglob("blobs/*"))
    assert [blob.read_bytes() for blob in blobs] == [b"theirs"]


def _commit(home: Path) -> str:
    (main,) = (home / ".cache/huggingface/hub").rglob("refs/main")
    return main.read_text()
