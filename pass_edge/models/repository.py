"""The files of a repository: which are models, and which one a name means. The choice is llama.cpp's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

FIRST_CHOICES = ("Q4_K_M", "Q8_0")
"""The quantizations to take where the user names none, the best first; llama.cpp's. Then the first file."""
SIDECAR = ".pass.gguf"
_OTHER_KINDS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
"""In the names of projectors, importance matrices and draft models."""
_PIECE = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})")
_QUANTIZATION = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q[1-8]_[A-Z0-9_]+|TQ[12]_0|BF16|FP?16|FP?32|MXFP4(?:_MOE)?|NVFP4))$",
    re.IGNORECASE,
)


def is_model(file: str) -> bool:
    """Whether ``file`` can be a model by its name, and is not a later piece of a split one."""
    name = file.rpartition("/")[2].lower()
    piece = _PIECE.fullmatch(name.removesuffix(".gguf"))
    return (
        name.endswith(".gguf")
        and not name.endswith(SIDECAR)
        and not any(word in name for word in _OTHER_KINDS)
        and not (piece and int(piece[2]) != 1)
    )


def choose(files: Iterable[str], which: str) -> str | None:
    """Return the model among ``files`` that ``which`` means: a quantization (in upper or lower case), a file,
    or "" for the one to take where the user names none. None if there is no such model. Of a split model, it
    is the first piece."""
    models = [file for file in files if is_model(file)]
    if which.lower().endswith(".gguf"):
        named = [file for file in models if which in (file, file.rpartition("/")[2])]
        return named[0] if named else None
    for quantization in [which] if which else FIRST_CHOICES:
        # not within a longer name: F16 is not BF16
        pattern = re.compile(rf"(?<![A-Za-z0-9]){re.escape(quantization)}[.-]", re.IGNORECASE)
        if found := next((file for file in models if pattern.search(file)), None):
            return found
    return models[0] if models and not which else None


def quantization_of(file: str) -> str:
    """Return the quantization that a file's name states, as in Q4_K_M; "" if it states none."""
    stem = PurePosixPath(file).name.removesuffix(".gguf")
    piece = _PIECE.fullmatch(stem)
    match = _QUANTIZATION.search(piece[1] if piece else stem)
    return match[1].upper() if match else ""


def short_name(repository: str, file: str, files: Sequence[str]) -> str:
    """Return the shortest name by which ``file`` is chosen among the ``files`` of a repository."""
    quantization = quantization_of(file)
    which = quantization if quantization and choose(files, quantization) == file else file
    return f"{repository}:{which}"


def names_there(files: Sequence[str]) -> str:
    """Return, for an error message, what may be chosen among ``files``."""
    models = [file for file in files if is_model(file)]
    named = [short_name("", file, files).removeprefix(":") for file in models]
    return f"has {', '.join(named)}" if named else "has no model in GGUF"
