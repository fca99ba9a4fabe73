"""Names of models: what a user may type after ``--model``.

model.gguf, ~/models/model.gguf          a path
USER/REPO, USER/REPO:Q4_K_M              a repository of Hugging Face's hub, and a quantization
USER/REPO:FILE.gguf                      one of its files
https://huggingface.co/USER/REPO/…       an address of either, as a browser shows it
ollama:NAME, ollama:NAME:TAG             a model that Ollama has
NAME                                     a model that `pass-edge models` lists
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from pass_edge.native.errors import SettingsError

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_REPOSITORY = re.compile(rf"({_PART}/{_PART})(?::(.+))?")
_HUB_HOSTS = ("huggingface.co", "hf.co", "www.huggingface.co")
_OTHER_PAGES = ("datasets", "spaces", "collections", "docs")
_OLLAMA = "ollama:"


@dataclass(frozen=True)
class HubName:
    """A model of a repository on the hub. ``which``: a quantization or the name of a file, "" where the user
    names none; ``revision``: a branch, tag or commit, "" for the main branch."""

    repository: str
    which: str = ""
    revision: str = ""

    def __str__(self) -> str:
        return f"{self.repository}:{self.which}" if self.which else self.repository


@dataclass(frozen=True)
class OllamaName:
    """A model of Ollama, as its manifests' paths name it: host/namespace/model/tag."""

    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        shown = [self.host, self.namespace, self.model]
        while len(shown) > 1 and shown[0] in ("registry.ollama.ai", "library"):
            del shown[0]
        return f"{_OLLAMA}{'/'.join(shown)}:{self.tag}"


@dataclass(frozen=True)
class ShortName:
    """The name of a model on this disk, as `pass-edge models` lists it."""

    text: str


Name: TypeAlias = "Path | HubName | OllamaName | ShortName"


def parse_name(text: str | os.PathLike[str]) -> Name:
    """Return what ``text`` names. What exists as a file is a path, and so is a Path. Raises SettingsError on
    an address that is not the hub's."""
    path = Path(text)
    if not isinstance(text, str) or _exists(path):
        return path
    if text.startswith(_OLLAMA):
        return parse_ollama(text.removeprefix(_OLLAMA))
    if (address := _address(text)) is not None:
        return _parse_address(text, *address)
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        return path.expanduser()
    if (match := _REPOSITORY.fullmatch(text)) and (match[2] or not text.endswith(".gguf")):
        return HubName(match[1], match[2] or "")
    return path if "/" in text or text.endswith(".gguf") or not text.strip() else ShortName(text)


def parse_ollama(text: str) -> OllamaName:
    """Return Ollama's name ``text``, with Ollama's defaults for what it leaves out."""
    colon = text.rfind(":")
    path, tag = (text[:colon], text[colon + 1 :]) if colon > text.rfind("/") else (text, "latest")
    *before, model = path.split("/")
    namespace = before.pop() if before else "library"
    name = OllamaName(before[0] if before else "registry.ollama.ai", namespace, model, tag)
    if (
        len(before) > 1
        or not (namespace and model and tag)
        or ".." in (*before, namespace, model, tag)
        or "/" in tag
    ):
        raise SettingsError(f"{text!r} is no name of a model as Ollama has them, such as qwen2.5:0.5b")
    return name


def hub_endpoint() -> str:
    """Return the address of the hub; the environment variable HF_ENDPOINT names a mirror."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # it is too long, or has a null
        return False


def _address(text: str) -> tuple[str, list[str]] | None:
    """Return the host and the parts of the path of an address; None if ``text`` is none."""
    if text.startswith("hf:"):
        host, path = _HUB_HOSTS[0], text.removeprefix("hf:").lstrip("/")
    elif "://" in text:
        host, path = urlsplit(text).netloc, urlsplit(text).path.strip("/")
    else:
        host, _, path = text.partition("/")
        if host not in _HUB_HOSTS:
            return None
    return host, [unquote(part) for part in path.split("/")]


def _parse_address(text: str, host: str, parts: list[str]) -> HubName:
    if host not in (*_HUB_HOSTS, urlsplit(hub_endpoint()).netloc):
        raise SettingsError(
            f"{text} is no address of Hugging Face's hub; download the file, and give its path"
        )
    match = _REPOSITORY.fullmatch("/".join(parts[:2]))
    if not match or parts[0] in _OTHER_PAGES:
        raise SettingsError(f"{text} names no model; the form is {hub_endpoint()}/USER/REPO")
    repository, which, rest = match[1], match[2] or "", parts[2:]
    revision = "main"
    if rest and rest[0] in ("resolve", "blob", "raw", "tree"):
        kind, revision, *rest = [*rest, "main"] if len(rest) == 1 else rest
        rest = [] if kind == "tree" else rest
    return HubName(repository, "/".join(rest) or which, "" if revision == "main" else revision)
