"""What a user may type for a model, and the sentence for what cannot be had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pass_edge import Engine, ModelError, SettingsError
from pass_edge.models import find_model
from pass_edge.models.names import HubName, OllamaName, ShortName, parse_name
from pass_edge.models.repository import choose, quantization_of, short_name
from tests.support.hub import Hub
from tests.support.model_homes import put

NAME = "someone/some-GGUF"
REGISTRY = "registry.ollama.ai"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model.gguf", Path("model.gguf")),
        ("folder/model.gguf", Path("folder/model.gguf")),
        ("./user/repo", Path("./user/repo")),
        ("/user/repo", Path("/user/repo")),
        ("a/b/c", Path("a/b/c")),
        ("a b/c", Path("a b/c")),
        ("", Path("")),
        ("user/repo", HubName("user/repo")),
        ("user/repo:Q4_K_M", HubName("user/repo", "Q4_K_M")),
        ("user/repo:folder/a.gguf", HubName("user/repo", "folder/a.gguf")),
        ("hf.co/user/repo:Q8_0", HubName("user/repo", "Q8_0")),
        ("huggingface.co/user/repo", HubName("user/repo")),
        ("hf://user/repo", HubName("user/repo")),
        ("hf:user/repo:Q8_0", HubName("user/repo", "Q8_0")),
        ("https://huggingface.co/user/repo", HubName("user/repo")),
        ("https://huggingface.co/user/repo/", HubName("user/repo")),
        ("https://huggingface.co/user/repo/tree/main", HubName("user/repo")),
        ("https://huggingface.co/user/repo/tree/v2", HubName("user/repo", revision="v2")),
        ("https://huggingface.co/user/repo/blob/main/a.gguf", HubName("user/repo", "a.gguf")),
        ("https://huggingface.co/user/repo/resolve/main/q/a.gguf?x=1", HubName("user/repo", "q/a.gguf")),
        ("https://huggingface.co/user/repo/resolve/v2/a%20b.gguf", HubName("user/repo", "a b.gguf", "v2")),
        ("https://hf.co/user/repo:Q8_0", HubName("user/repo", "Q8_0")),
        ("ollama:qwen", OllamaName(REGISTRY, "library", "qwen", "latest")),
        ("ollama:qwen2.5:0.5b", OllamaName(REGISTRY, "library", "qwen2.5", "0.5b")),
        ("ollama:me/mine:v1", OllamaName(REGISTRY, "me", "mine", "v1")),
        ("ollama:hf.co/user/repo:Q8_0", OllamaName("hf.co", "user", "repo", "Q8_0")),
        ("ollama:localhost:5000/me/mine", OllamaName("localhost:5000", "me", "mine", "latest")),
        ("qwen2.5", ShortName("qwen2.5")),
        ("qwen2.5:0.5b", ShortName("qwen2.5:0.5b")),
    ],
)  # fmt: skip
def test_forms_of_names(text: str, name: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_name(text) == name
    assert parse_name(Path(text)) == Path(text), "a Path is a path"


def test_what_is_there_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("user/repo", "qwen", "ollama:qwen"):
        put(tmp_path / text)
        assert parse_name(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://example.com/user/repo/a.gguf", "no address of Hugging Face's hub; download the file"),
        ("https://huggingface.co/datasets/user/repo", "names no model; the form is"),
        ("https://huggingface.co/user", "names no model"),
        ("ollama:", "is no name of a model as Ollama has them"),
        ("ollama:qwen:", "is no name"),
        ("ollama:../../x/y", "is no name"),
    ],
)
def test_other_addresses_are_refused(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        parse_name(text)


def test_a_mirror_has_addresses_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.local:8000/")
    assert parse_name("http://mirror.local:8000/user/repo") == HubName("user/repo")


@pytest.mark.parametrize(
    ("file", "quantization"),
    [
        ("a-Q4_K_M.gguf", "Q4_K_M"),
        ("a.q8_0.gguf", "Q8_0"),
        ("a_IQ2_XXS.gguf", "IQ2_XXS"),
        ("q/a-UD-Q4_K_XL-00001-of-00002.gguf", "UD-Q4_K_XL"),
        ("ggml-model-f16.gguf", "F16"),
        ("a-bf16.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Qwen2.5-7B.gguf", ""),
        ("model.gguf", ""),
    ],
)
def test_quantizations_in_names_of_files(file: str, quantization: str) -> None:
    assert quantization_of(file) == quantization


def test_short_names_lead_back_to_their_file() -> None:
    files = ["a-Q4_K_M.gguf", "b-Q4_K_M.gguf", "a-f16.gguf", "a-BF16.gguf", "x/a-Q4_K_M.gguf", "plain.gguf"]
    for file in files:
        name = short_name("u/r", file, files).removeprefix("u/r:")
        assert choose(files, name) == file
    assert short_name("u/r", "a-Q4_K_M.gguf", files) == "u/r:Q4_K_M"
    assert short_name("u/r", "b-Q4_K_M.gguf", files) == "u/r:b-Q4_K_M.gguf"


# -- what cannot be had -------------------------------------------------------------------------------


def refusal(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        find_model(name, progress=lambda *_: None)
    return str(caught.value)


def test_an_unknown_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories = {"someone/Qwen2.5-7B-GGUF": {}, "other/Qwen2.5-7B-Instruct-GGUF": {}}
    said = refusal("me/Qwen2.5-7B-GGUF")
    assert f"there is no me/Qwen2.5-7B-GGUF, neither here nor at {hub.url}/me/Qwen2.5-7B-GGUF" in said
    assert "there are someone/Qwen2.5-7B-GGUF, other/Qwen2.5-7B-Instruct-GGUF" in said
    assert "if it is private, set HF_TOKEN" in said
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert "if it is private, the token that is used may not read it" in refusal("me/none")


def test_an_unknown_quantization_file_or_revision(hub: Hub) -> None:
    hub.repositories = {
        NAME: dict.fromkeys(("a-Q4_0.gguf", "mmproj-f16.gguf", "a.pass.gguf", "b.gguf"), b"GGUF")
    }
    assert f"{NAME} has no Q4_K_M; it has Q4_0, b.gguf" in refusal(f"{NAME}:Q4_K_M")
    assert "has no none.gguf; it has Q4_0" in refusal(f"{NAME}:none.gguf")
    assert "has no mmproj-f16.gguf; it has Q4_0" in refusal(f"{NAME}:mmproj-f16.gguf")
    assert f"{NAME} has no revision v9" in refusal(f"{hub.url}/{NAME}/tree/v9")
    hub.repositories = {NAME: {"model.safetensors": b""}}
    assert refusal(NAME) == f"{NAME} has no model in GGUF"


def test_private_and_gated_repositories(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories = {NAME: {"a-Q4_0.gguf": b"GGUF"}}
    hub.private = {NAME}
    assert "set HF_TOKEN to a token that may read it" in refusal(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not accept the token in HF_TOKEN" in refusal(NAME)
    hub.private, hub.gated = set(), {NAME}
    monkeypatch.delenv("HF_TOKEN")
    assert f"is gated: accept its conditions at {hub.url}/{NAME}, and set HF_TOKEN" in refusal(NAME)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert "is gated: accept its conditions" in refusal(NAME)


def test_a_private_repository_with_its_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories = {NAME: {"a-Q4_0.gguf": b"GGUF"}}
    hub.private = {NAME}
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert find_model(NAME, progress=lambda *_: None).path.read_bytes() == b"GGUF"


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories = {NAME: {"a-Q4_0.gguf": b"GGUF"}}
    path = find_model(NAME, progress=lambda *_: None).path
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert find_model(f"{NAME}:q4_0").path == path
    said = refusal(f"{NAME}:Q8_0")
    assert "is not on this disk as a whole, and http://127.0.0.1:9 cannot be reached" in said
    assert "`pass-edge models` lists what is here" in said
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find_model(NAME).path == path
    assert "HF_HUB_OFFLINE forbids the network" in refusal("me/other")


@pytest.mark.parametrize("status", [500, 503, 418])
def test_a_hub_that_fails(status: int, hub: Hub) -> None:
    hub.status = status
    assert f"{hub.url} answered {status} for {NAME}; try again later" in refusal(NAME)


def test_short_names(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "my models"
    path = put(folder / "qwen" / "Qwen2.5-0.5B-Q4_K_M.gguf")
    monkeypatch.setenv("PASS_EDGE_MODELS", str(folder))
    for name in ("Qwen2.5-0.5B-Q4_K_M", "qwen2.5-0.5b-q4_k_m"):
        assert find_model(name).path == path
    assert find_model("qwen2.5-0.5b-q4_k_m").name == "qwen2.5-0.5b-q4_k_m"
    assert "no model of that name on this disk; is Qwen2.5-0.5B-Q4_K_M meant" in refusal("Qwen2.5-0.5B-Q4_0")
    assert "USER/REPO names one on Hugging Face's hub" in refusal("mistral")
    put(folder / "other" / path.name, b"GGUF2")
    assert "several models are called qwen2.5-0.5b-q4_k_m; give the path of one" in refusal(
        "qwen2.5-0.5b-q4_k_m"
    )


def test_a_missing_path_is_a_missing_path(tmp_path: Path) -> None:
    for model in (str(tmp_path / "none.gguf"), Path("user/repo"), "folder/none.gguf", "none.gguf"):
        with pytest.raises(ModelError, match=r"there is no file|is not"):
            Engine(model)


def test_a_path_does_not_import_the_hubs_package() -> None:
    script = """
import sys
from pass_edge.models import find_model
find_model("model.gguf")
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    imported = set(done.stdout.split())
    assert "pass_edge.models.find" in imported, done.stderr
    assert not imported & {"huggingface_hub", "httpx2"}
