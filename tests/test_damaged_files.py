"""Thousands of damaged files: each is read or refused in one sentence, and no refused merge leaves a file.

The files are mutations of small good ones, and are read in a child process, so that native code that aborts,
faults, hangs or allocates absurdly is a failure. The file that was being read is then left in the folder.
"""

from __future__ import annotations

import io
import json
import resource
import signal
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.numpy import save

from pass_edge import Lookahead, PassEdgeError, write_sidecar
from pass_edge.convert.checkpoint import read_embeddings
from pass_edge.convert.inspection import inspect
from pass_edge.convert.merge import merge
from pass_edge.drafting.lookahead import Base
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.native.draft_head import HeadWeights
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.tiny_model import write_tiny_model

ROOT = Path(__file__).parent.parent
D, V, L = 32, 12, 3
BASE = Base("llama", "tiny", D, V, "a" * 64, "b" * 64)
ROWS = np.random.default_rng(0).standard_normal((L, D)).astype(np.float32)
MATRIX = np.random.default_rng(1).standard_normal((V + L, D)).astype(np.float32)
LONGEST_READ = 20  # seconds
MOST_MEMORY = 1 << 30  # bytes above what the child began with
HEADER = 1024  # bytes in which most of what can go wrong stands
ABSURD = [10**12, 2**64 - 1, 0, 2**32 - 1, 2**62, 1, 2**16, 2**31 - 1, 2**40, 2**63 - 1, 2**63]


# -- good files ---------------------------------------------------------------------------------------


def saved(content: object, *, legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def in_torch(*, legacy: bool) -> bytes:
    content = {"epoch": 3, "model": {"lookahead.weight": torch.from_numpy(ROWS), "norm": torch.ones(5)}}
    return saved(content, legacy=legacy)


def in_safetensors() -> bytes:
    return save({"lookahead.weight": ROWS, "norm": np.ones(5, np.float16)}, {"format": "pt"})


def index() -> bytes:
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": {"a": "model.safetensors"}}).encode()


def tokenizer() -> bytes:
    added = [{"id": V + i, "content": f"<{i}>", "special": True} for i in range(L)]
    return json.dumps({"version": "1.0", "added_tokens": added, "model": {"type": "BPE"}}).encode()


def model_with_text(path: Path) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_custom_alignment(64)
    writer.add_embedding_length(D)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token {i}" for i in range(V)])
    writer.add_token_scores([0.0] * V)
    writer.add_token_types([1] * V)
    writer.add_array("some.flags", [True, False])
    writer.add_tensor("token_embd.weight", MATRIX[:V])
    writer.add_tensor("output.weight", MATRIX[:V].astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf(kind: str) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if kind == "model with text":
            return model_with_text(folder / "model.gguf").read_bytes()
        model = write_tiny_model(folder / "model.gguf", n_vocab=V, n_embd=D, n_layer=1, n_head=2, n_ff=32)
        if kind == "model":
            return model.read_bytes()
        sidecar = folder / "model.pass.gguf"
        numbers = np.random.default_rng(2).standard_normal((32, 2 * D)).astype(np.float32)
        head = HeadWeights.quantize(numbers, -numbers, numbers[:D, :32].copy())
        some = {"head": head, "hidden_head": head, "candidates": np.arange(5, dtype=np.int32)}
        write_sidecar(Lookahead(ROWS, read_base(model), (0.5,), "by hand", ROWS[:1], **some), sidecar)
        if kind == "sidecar":
            return sidecar.read_bytes()
        merge(model, sidecar, folder / "merged.gguf")
        return (folder / "merged.gguf").read_bytes()


# -- reading ------------------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> None:
    rows = read_embeddings(path, BASE)
    assert rows.dtype == np.float32
    assert 0 < len(rows) <= 64
    assert rows.shape[1] == D


def read_folder(path: Path) -> None:
    (path.parent / "model.safetensors").write_bytes(save({"embed_tokens.weight": MATRIX}))
    read_checkpoint(path.parent)


def read_gguf(path: Path) -> None:
    json.dumps(inspect([path]))
    with suppress(PassEdgeError):  # a sidecar has none
        embeddings = TokenEmbeddings(path)
        embeddings.rows(np.array([0, len(embeddings._rows) - 1], np.int32))


def read_and_merge(path: Path) -> None:
    sidecar, merged = path.with_suffix(".pass.gguf"), path.with_suffix(".merged")
    base = read_base(path)
    write_sidecar(Lookahead(np.ones((L, base.n_embd), np.float32), base), sidecar)
    try:
        merge(path, sidecar, merged)
    except PassEdgeError:
        assert {file.name for file in path.parent.iterdir()} == {path.name, sidecar.name}
        raise


@dataclass(frozen=True)
class Kind:
    """``good``: the content of a file that can be read; ``read``: what is done with mutations of it, under
    ``name``; ``share`` of all files that are of this kind."""

    good: Callable[[], bytes]
    read: Callable[[Path], None]
    name: str
    share: float


KINDS = {
    "safetensors": Kind(in_safetensors, read_checkpoint, "c.safetensors", 0.2),
    "torch": Kind(lambda: in_torch(legacy=False), read_checkpoint, "c.pt", 0.15),
    "torch, old form": Kind(lambda: in_torch(legacy=True), read_checkpoint, "c.pt", 0.15),
    "index": Kind(index, read_folder, "model.safetensors.index.json", 0.05),
    "tokenizer": Kind(tokenizer, read_folder, "tokenizer.json", 0.05),
    "sidecar": Kind(lambda: gguf("sidecar"), read_gguf, "x.pass.gguf", 0.15),
    "model": Kind(lambda: gguf("model"), read_gguf, "x.gguf", 0.09),
    "model, to be merged": Kind(lambda: gguf("model"), read_and_merge, "x.gguf", 0.01),
    "model with text": Kind(lambda: gguf("model with text"), read_gguf, "x.gguf", 0.1),
    "merged": Kind(lambda: gguf("merged"), read_gguf, "x.gguf", 0.05),
}


# -- mutating -----------------------------------------------------------------------------------------


def mutated(content: bytes, kind: str, number: int) -> bytes:
    """``content`` with damage that depends on ``number`` alone. Every fourth has an absurd length, at one
    place in its header after the other; the others one to three kinds of damage anywhere."""
    damaged = bytearray(content)
    if number % 4 == 0:
        turn, start = divmod(number // 4, min(len(content), HEADER))
        set_length(damaged, start, ABSURD[turn % len(ABSURD)], 8)
        return bytes(damaged)
    rng = np.random.default_rng([zlib.crc32(kind.encode()), number])
    for _ in range(rng.integers(1, 4)):
        DAMAGE[rng.integers(len(DAMAGE))](damaged, rng)
    return bytes(damaged)


def place(content: bytearray, rng: np.random.Generator) -> int:
    """Half of the places are among the first bytes, where headers stand."""
    end = len(content) if rng.integers(2) else min(len(content), HEADER)
    return int(rng.integers(end)) if end else 0


def flip_bits(content: bytearray, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 9) if content else 0):
        content[place(content, rng)] ^= 1 << rng.integers(8)


def set_bytes(content: bytearray, rng: np.random.Generator) -> None:
    start = place(content, rng)
    content[start : start + 4] = rng.bytes(rng.integers(1, 5))


def set_a_length(content: bytearray, rng: np.random.Generator) -> None:
    set_length(content, place(content, rng), ABSURD[rng.integers(len(ABSURD))], (4, 8)[rng.integers(2)])


def set_length(content: bytearray, start: int, length: int, width: int) -> None:
    """In binary, or where there is a digit, in digits."""
    if content[start : start + 1].isdigit():
        content[start : start + 1] = str(length).encode()
    else:
        content[start : start + width] = length.to_bytes(8, "little")[:width]


def cut_off(content: bytearray, rng: np.random.Generator) -> None:
    del content[place(content, rng) :]


def cut_out(content: bytearray, rng: np.random.Generator) -> None:
    start = place(content, rng)
    del content[start : start + int(rng.integers(1, 65))]


def repeat(content: bytearray, rng: np.random.Generator) -> None:
    """Insert a piece from elsewhere."""
    start, target = place(content, rng), place(content, rng)
    content[target:target] = content[start : start + int(rng.integers(1, 65))]


def overwrite(content: bytearray, rng: np.random.Generator) -> None:
    """Copy a piece from elsewhere over another: lengths stay right."""
    piece = content[place(content, rng) :][: int(rng.integers(1, 65))]
    target = place(content, rng)
    content[target : target + len(piece)] = piece


DAMAGE = [flip_bits, set_bytes, set_a_length, set_a_length, cut_off, cut_out, repeat, overwrite]


# -- the child ----------------------------------------------------------------------------------------


def read_mutations(kind: str, first: int, count: int, folder: Path) -> None:
    """Print the number of each mutation before it is read, and how it ended."""
    content, before = KINDS[kind].good(), peak_memory()
    path = folder / KINDS[kind].name
    for number in range(first, first + count):
        print(kind, number, sep="\t", end="\t", flush=True)
        path.write_bytes(mutated(content, kind, number))
        signal.alarm(LONGEST_READ)  # its default action ends the process, even inside native code
        refusal = refused(KINDS[kind], path)
        signal.alarm(0)
        assert refusal.isprintable(), repr(refusal)
        assert peak_memory() - before < MOST_MEMORY
        print("refused" if refusal else "read")
        for file in folder.iterdir():
            file.unlink()


def refused(kind: Kind, path: Path) -> str:
    """The sentence in which reading ended; empty if it ended well."""
    try:
        kind.read(path)
    except PassEdgeError as error:
        return str(error)
    return ""


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run_child(first: int, total: int, folder: Path) -> Counter[tuple[str, str]]:
    """How many mutations of each kind ended how."""
    command = [sys.executable, "-m", "tests.test_damaged_files", str(first), str(total), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    if done.returncode != 0:
        pytest.fail(f"{lines[-1:]} in {folder} ended with {done.returncode}: {done.stderr[-3000:]}")
    return Counter((kind, end) for kind, _, end in lines)


# -- tests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_the_unharmed_file_can_be_read(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / kind.name).write_bytes(kind.good())
    kind.read(tmp_path / kind.name)


@pytest.mark.parametrize(("first", "total"), [(0, 800), pytest.param(800, 50_000, marks=pytest.mark.slow)])
def test_mutated_files_are_refused_in_a_sentence_or_read(
    first: int, total: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = run_child(first, total, tmp_path)
    with capsys.disabled():
        print(f"\n{ends.total()} mutated files:")
        for kind in KINDS:
            print(f"  {kind}: {ends[kind, 'refused']} refused, {ends[kind, 'read']} read")
    assert ends.total() == total
    # else a reader that takes anything, or refuses everything, would pass
    assert all(ends[kind, "refused"] for kind in KINDS)
    assert sum(ends[kind, "read"] for kind in KINDS) > total / 20


if __name__ == "__main__":
    for name, each in KINDS.items():
        read_mutations(name, int(sys.argv[1]), round(int(sys.argv[2]) * each.share), Path(sys.argv[3]))
