"""Models come from the hub whole or not at all, whatever happens to the network and the disk."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pass_edge import Engine, ModelError, OutputError, Sampling, Settings
from pass_edge.models import find_model
from pass_edge.models.folders import hub_cache
from pass_edge.models.hub import Progress
from tests.support.hub import Hub, checksum
from tests.support.lookaheads import lookahead_for

CONTENT = bytes(range(256)) * 40_000  # 10 MB
NAME = "someone/some-GGUF"


def files(hub: Hub, *names: str, content: bytes = CONTENT) -> None:
    hub.repositories[NAME] = {name: content + name.encode() for name in names}


def get(name: str = NAME, progress: Progress = lambda *_: None) -> Path:
    return find_model(name, progress=progress).path


def left() -> list[str]:
    """The names of unfinished files in the cache."""
    return [path.name for path in hub_cache().rglob("*.incomplete")]


def test_a_model_is_downloaded_once(hub: Hub) -> None:
    files(hub, "a-Q4_K_M.gguf")
    told: list[tuple[str, int, int]] = []
    path = get(progress=lambda *each: told.append(each))
    assert path.read_bytes() == hub.repositories[NAME]["a-Q4_K_M.gguf"]
    size = path.stat().st_size
    assert [told[-1], len(told) > 3] == [("a-Q4_K_M.gguf", size, size), True]
    asked = len(hub.asked)
    assert get() == get(f"{NAME}:q4_k_m") == path
    assert len(hub.asked) == asked, "a model that is there needs no network"


@pytest.mark.parametrize(
    ("there", "name", "taken"),
    [
        (("a-Q2_K.gguf", "a-Q4_K_M.gguf", "a-Q8_0.gguf"), "", "a-Q4_K_M.gguf"),
        (("a-Q2_K.gguf", "a-Q4_0.gguf", "a-Q8_0.gguf"), "", "a-Q8_0.gguf"),
        (("README.md", "a-Q2_K.gguf", "a-Q4_0.gguf"), "", "a-Q2_K.gguf"),
        (("a-BF16.gguf", "a-F16.gguf"), ":f16", "a-F16.gguf"),
        (("a-IQ4_XS.gguf", "a-UD-Q4_K_XL.gguf"), ":Q4_K_XL", "a-UD-Q4_K_XL.gguf"),
        (("a.q4_0.gguf", "a.q8_0.gguf"), ":Q8_0", "a.q8_0.gguf"),
        (("mmproj-Q4_K_M.gguf", "imatrix-Q4_K_M.gguf", "mtp-Q4_K_M.gguf", "a-Q8_0.gguf"), "", "a-Q8_0.gguf"),
        (("mmproj-model-f16.gguf", "model-f16.gguf"), ":F16", "model-f16.gguf"),
        (("Q8_0/a-Q8_0.gguf", "Q4_K_M/a-Q4_K_M.gguf"), "", "Q4_K_M/a-Q4_K_M.gguf"),
        (("a-Q4_K_M.gguf", "b-Q4_K_M.gguf"), ":b-Q4_K_M.gguf", "b-Q4_K_M.gguf"),
        (("a.pass.gguf", "a.gguf"), "", "a.gguf"),
    ],
)  # fmt: skip
def test_the_file_is_the_one_that_llama_cpp_takes(
    there: tuple[str, ...], name: str, taken: str, hub: Hub
) -> None:
    files(hub, *there, content=b"GGUF")
    assert get(NAME + name).as_posix().endswith(f"/{taken}")


def test_a_split_model_comes_with_all_its_pieces(hub: Hub) -> None:
    names = [f"q/a-Q4_K_M-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    files(hub, "a-Q8_0.gguf", *names)
    path = get()
    assert path.name == "a-Q4_K_M-00001-of-00003.gguf"
    assert sorted(each.name for each in path.parent.iterdir()) == [name[2:] for name in names]
    (path.parent / names[2][2:]).unlink()
    get()
    assert (path.parent / names[2][2:]).exists(), "a model that lacks a piece is not here"
    del hub.repositories[NAME][names[1]]
    (path.parent / names[1][2:]).unlink()
    with pytest.raises(ModelError, match=f"lacks {names[1]}"):
        get()


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_a_cut_connection_is_continued(takes_ranges: bool, hub: Hub) -> None:
    files(hub, "a-Q8_0.gguf")
    hub.takes_ranges = takes_ranges
    hub.cuts = [3 << 20, 2 << 20, 0]
    path = get()
    assert checksum(path.read_bytes()) == checksum(hub.repositories[NAME]["a-Q8_0.gguf"])
    assert not left()
    ranges = [headers["range"] for headers in hub.requests("GET", "resolve") if "range" in headers]
    assert len(ranges) == (3 if takes_ranges else 2)  # without ranges, the last cut left nothing
    assert ranges[0] == f"bytes={3 << 20}-"


def test_an_interrupted_download_is_continued_by_the_next_process(hub: Hub) -> None:
    files(hub, "a-Q8_0.gguf")

    def interrupt(_: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(progress=interrupt)
    assert len(left()) == 1
    script = "from pass_edge.models import find_model; import sys; print(find_model(sys.argv[1]).path)"
    done = subprocess.run([sys.executable, "-c", script, NAME], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == hub.repositories[NAME]["a-Q8_0.gguf"]
    begins = [int(each["range"][6:-1]) for each in hub.requests("GET", "resolve") if "range" in each]
    assert begins[0] > len(CONTENT) // 2
    assert not left()


def test_a_connection_that_always_ends_is_told(hub: Hub) -> None:
    files(hub, "a-Q8_0.gguf")
    hub.cuts = [1000] + [0] * 100
    with pytest.raises(ModelError, match="the same command continues it"):
        get()
    assert len(left()) == 1
    hub.cuts = []
    assert get().read_bytes() == hub.repositories[NAME]["a-Q8_0.gguf"]


def test_damaged_files_are_not_kept(hub: Hub) -> None:
    files(hub, "a-Q8_0.gguf")
    hub.damaged = {"a-Q8_0.gguf"}
    with pytest.raises(ModelError, match="arrived damaged: its checksum"):
        get()
    assert not [path for path in hub_cache().rglob("*") if path.is_file() and path.stat().st_size > 1000]
    hub.damaged = set()
    assert get().read_bytes() == hub.repositories[NAME]["a-Q8_0.gguf"]


def test_the_wrong_beginning_of_another_program_is_noticed(hub: Hub) -> None:
    files(hub, "a-Q8_0.gguf")
    content = hub.repositories[NAME]["a-Q8_0.gguf"]
    part = hub_cache() / "models--someone--some-GGUF" / "blobs" / f"{checksum(content)}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    with pytest.raises(ModelError, match="arrived damaged"):
        get()
    part.write_bytes(content + b"more")
    assert get().read_bytes() == content


def test_a_hub_without_checksums_works(hub: Hub) -> None:
    files(hub, "a-Q8_0.gguf")
    hub.states_checksums = False
    assert get().read_bytes() == hub.repositories[NAME]["a-Q8_0.gguf"]


def test_the_token_goes_to_the_hub_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    files(hub, "a-Q8_0.gguf")
    hub.private = {NAME}
    hub.elsewhere = "localhost"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert get().read_bytes() == hub.repositories[NAME]["a-Q8_0.gguf"]
    assert all("authorization" in headers for headers in hub.requests("HEAD"))
    assert [headers for headers in hub.requests("GET", "/blob/") if "authorization" in headers] == []


def test_a_disk_with_too_little_room_is_told_before_the_first_byte(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(hub, "a-Q8_0.gguf")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5 << 20))
    with pytest.raises(OutputError, match=r"has 0\.0 GiB free; free some, or let HF_HOME"):
        get()
    assert not hub.requests("GET", "resolve")


def test_a_disk_that_fills_up_is_told_and_the_part_is_kept(hub: Hub) -> None:
    files(hub, "a-Q8_0.gguf")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, before[1]))
    try:
        with pytest.raises(
            OutputError, match=r"cannot be stored in .*; free some space, and the same command"
        ):
            get()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(left()) == 1
    assert get().read_bytes() == hub.repositories[NAME]["a-Q8_0.gguf"]


def test_a_cache_that_cannot_be_written_is_told(
    hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(hub, "a-Q8_0.gguf")
    (home / "file").write_text("")
    monkeypatch.setenv("HF_HOME", str(home / "file"))
    with pytest.raises(OutputError, match="cannot be stored in"):
        get()


def test_a_lookahead_file_of_the_repository_drafts(hub: Hub, speaking_path: Path, tmp_path: Path) -> None:
    from pass_edge import write_sidecar

    write_sidecar(lookahead_for(speaking_path), tmp_path / "x.pass.gguf")
    model, sidecar = speaking_path.read_bytes(), (tmp_path / "x.pass.gguf").read_bytes()
    hub.repositories[NAME] = {"m-Q4_0.gguf": b"GGUF", "m-Q8_0.gguf": model, "m.pass.gguf": sidecar}
    with Engine(f"{NAME}:Q8_0", settings=Settings(threads=1)) as engine:
        assert engine.lookahead
        assert engine.name == f"{NAME}:Q8_0"
        assert engine.stream("yes", sampling=Sampling(seed=1), max_tokens=4).run().text


def test_a_model_from_elsewhere_gets_the_lookahead_file_of_its_repository(
    hub: Hub, home: Path, speaking_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pass_edge import write_sidecar
    from tests.support.model_homes import put

    put(home / ".lmstudio/models" / NAME / "m-Q8_0.gguf", speaking_path)
    hub.repositories[NAME] = {"m-Q8_0.gguf": b"GGUF"}
    settings = Settings(threads=1)
    for _ in range(2):
        with Engine(NAME, settings=settings) as engine:
            assert not engine.lookahead
        assert len(hub.requests("GET", "/api/")) == 1, "the hub is not asked at each start"
    write_sidecar(lookahead_for(speaking_path), tmp_path / "x.pass.gguf")
    hub.repositories[NAME]["m.pass.gguf"] = (tmp_path / "x.pass.gguf").read_bytes()
    monkeypatch.setattr("pass_edge.models.sidecars._ASK_AGAIN", 0)
    with Engine(NAME, settings=settings) as engine:
        assert engine.lookahead
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with Engine(NAME, settings=settings) as engine:
        assert engine.lookahead, "now it is in the cache"
