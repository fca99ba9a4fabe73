"""Names of models in Python: Engine takes them, and Llama.from_pretrained the files of a repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from pass_edge import Engine, Llama, ModelError, Sampling, Settings
from pass_edge.models.folders import hub_cache
from pass_edge.openai.hub import download
from tests.support.hub import Hub
from tests.support.model_homes import put_in_ollama

NAME = "someone/some-GGUF"


@pytest.fixture
def model(hub: Hub, speaking_path: Path) -> bytes:
    content = speaking_path.read_bytes()
    hub.repositories[NAME] = {"README.md": b"x", "model-q4_0.gguf": b"GGUF", "more/model-q8_0.gguf": content}
    return content


def test_an_engine_takes_a_name(model: bytes, home: Path, speaking_path: Path) -> None:
    put_in_ollama(home / ".ollama/models", "registry.ollama.ai/library/speaker/latest", model)
    texts = []
    for name in (speaking_path, f"{NAME}:q8_0", "ollama:speaker"):
        with Engine(name, settings=Settings(threads=1)) as engine:
            texts.append(engine.stream("yes", sampling=Sampling(seed=3), max_tokens=8).run().text)
            assert engine.name == (name if isinstance(name, str) else name.stem)
    assert texts[0] == texts[1] == texts[2] != ""


def test_a_draft_model_has_a_name_too(model: bytes, speaking_path: Path) -> None:
    with Engine(speaking_path, settings=Settings(threads=1, draft_model=f"{NAME}:Q8_0")) as engine:
        assert engine.draft_model


def test_llama_takes_paths_alone(model: bytes) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        Llama(f"{NAME}:Q8_0", verbose=False)


def test_from_pretrained_takes_the_file_that_matches(model: bytes, tmp_path: Path, hub: Hub) -> None:
    ask = {"repo_id": NAME, "n_threads": 1, "verbose": False}
    with Llama.from_pretrained(filename="*q8_0.gguf", **ask) as llm:
        assert Path(llm.model_path).is_relative_to(hub_cache())
    here = tmp_path / "here"
    with Llama.from_pretrained(filename="*q8_0.gguf", local_dir=here, **ask) as llm:
        assert llm.model_path == str(here / "more/model-q8_0.gguf")
    first = download(NAME, ["model-q4_0.gguf", "READ*"], cache_dir=tmp_path / "cache")
    assert Path(first).read_bytes() == b"GGUF"
    assert len(list((tmp_path / "cache").rglob("README.md"))) == 1
    for pattern, words in (("*.bin", "no file matches"), ("*.gguf", "several files match")):
        with pytest.raises(ValueError, match=words):
            Llama.from_pretrained(filename=pattern, **ask)
    with pytest.raises(ModelError, match="there is no someone/else"):
        Llama.from_pretrained("someone/else", "x.gguf")
