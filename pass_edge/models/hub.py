"""Downloads from Hugging Face's hub, into the cache of the package huggingface-hub.

That package lists repositories, finds tokens and fills its cache. It keeps nothing of an interrupted
download, and checks only sizes. So the bytes of a file are fetched here: a part that is there is continued,
and the whole must have the checksum that the hub states. The package is imported when something is asked of
the hub, because its import takes most of a second.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from pass_edge.native.errors import ModelError, OutputError
from pass_edge.native.model_path import pieces_of

from .fetched import mark_fetched
from .folders import hub_cache, repository_folder
from .names import HubName, hub_endpoint
from .repository import SIDECAR, choose, names_there

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

Progress = Callable[[str, int, int], None]
"""Called while a file is downloaded: its name, the bytes that are here, and all."""

_CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CHUNK = 1 << 20  # bytes
_TIMEOUT = 10.0  # seconds
_FAILURES = 5
"""Failures in a row after which a download ends: those without a byte between them."""
_PAUSE = 1.0
"""Seconds before the second try; further ones wait longer."""


@dataclass(frozen=True)
class Repository:
    """What the hub says of a repository: the ``sizes`` of its files in bytes, by their names."""

    name: HubName
    sizes: Mapping[str, int]

    def choose(self) -> list[str]:
        """Return the files of the model that is named, all pieces of a split one. Raises ModelError."""
        files = list(self.sizes)
        first = choose(files, self.name.which)
        if first is None:
            wanted = f"has no {self.name.which}; it " if self.name.which else ""
            raise ModelError(f"{self.name.repository} {wanted}{names_there(files)}")
        pieces = [piece.as_posix() for piece in pieces_of(Path(first))]
        if missing := [piece for piece in pieces if piece not in self.sizes]:
            raise ModelError(f"{self.name.repository} lacks {missing[0]}, a piece of {first}")
        return pieces

    def sidecars(self, model: str) -> list[str]:
        """Return the lookahead files: the one that is named as the file ``model``, else all."""
        beside = str(Path(model).with_suffix(SIDECAR))
        return [beside] if beside in self.sizes else [f for f in self.sizes if f.endswith(SIDECAR)]


def is_offline() -> bool:
    """Return whether the user wants no network: HF_HUB_OFFLINE is set."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def list_repository(name: HubName) -> Repository:
    """Ask the hub for the files of a repository. Raises ModelError in words for the user."""
    with _errors_in_words(name):
        from huggingface_hub import HfApi

        info = HfApi(endpoint=hub_endpoint()).model_info(
            name.repository, revision=name.revision or None, files_metadata=True, timeout=_TIMEOUT
        )
        return Repository(name, {each.rfilename: each.size or 0 for each in info.siblings or ()})


def fetch(
    repository: Repository,
    files: Sequence[str],
    progress: Progress | None = None,
    cache: Path | None = None,
    folder: Path | None = None,
) -> list[Path]:
    """Download ``files`` of ``repository`` as far as they are not there, and return their paths.

    They go to the hub's cache, to another one in ``cache``, or under their own names into ``folder``, where
    huggingface-hub puts them alone. ``progress``: None draws huggingface-hub's bar. Raises ModelError if they
    cannot be had or arrive damaged, OutputError if the disk is full.
    """
    from huggingface_hub import hf_hub_download

    cache = cache or hub_cache()
    with _errors_in_words(repository.name), _bars(progress) as show:
        if folder:
            get = partial(hf_hub_download, repository.name.repository, endpoint=hub_endpoint())
            return [Path(get(file, local_dir=folder)) for file in files]
        _check_room(repository, files, cache)
        return [_fetch_file(repository.name, file, show, cache) for file in files]


def similar_repositories(repository: str) -> list[str]:
    """Return names of repositories that resemble ``repository``; none if the hub does not answer."""
    from huggingface_hub import HfApi

    words = repository.rpartition("/")[2].removesuffix("-GGUF")
    with suppress(Exception):  # an error is being reported, to which this only adds
        found = HfApi(endpoint=hub_endpoint()).list_models(search=words, filter="gguf", limit=3)
        return [model.id for model in found]
    return []


# -- one file -----------------------------------------------------------------------------------------


def _fetch_file(name: HubName, file: str, progress: Progress, cache: Path) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import WeakFileLock

    endpoint, revision = hub_endpoint(), name.revision or "main"
    url = hf_hub_url(name.repository, file, revision=revision, endpoint=endpoint)
    metadata = get_hf_file_metadata(url, timeout=_TIMEOUT, endpoint=endpoint)
    if _CHECKSUM.fullmatch(metadata.etag or "") and metadata.size:
        folder = repository_folder(cache, name.repository)
        blob = folder / "blobs" / str(metadata.etag)
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock = cache / ".locks" / folder.name / f"{metadata.etag}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):  # another process may be fetching it; then it is there afterwards
            if not blob.exists():
                _Download(url, file, metadata, blob).run(progress)
                mark_fetched(blob)
    # now it is in the cache, and gets its name there
    return Path(hf_hub_download(name.repository, file, revision=revision, cache_dir=cache, endpoint=endpoint))


class _Download:
    """The download of one file to ``blob``. What has arrived is in ``part`` until it is complete."""

    def __init__(self, url: str, file: str, metadata: HfFileMetadata, blob: Path) -> None:
        self.url, self.file, self.metadata, self.blob = url, file, metadata, blob
        self.part = blob.with_name(f"{blob.name}.incomplete")
        self.size = metadata.size or 0

    def run(self, progress: Progress) -> None:
        """Raises ModelError if what arrives is not the file, OSError if it cannot be written, and
        httpx2.HTTPError if the connection fails again and again."""
        import httpx2

        with self.part.open("ab+") as part:
            if part.tell() > self.size:
                part.truncate(part.seek(0))
            failures, most = 0, part.tell()
            while part.tell() < self.size:
                try:
                    self._receive(part, progress)
                except httpx2.HTTPError:
                    failures = 0 if part.tell() > most else failures + 1
                    most = max(most, part.tell())
                    if failures > _FAILURES:
                        raise
                    time.sleep(_PAUSE * (1 + failures))
                    self._renew()
        self._check()
        os.replace(self.part, self.blob)

    def _receive(self, part: BinaryIO, progress: Progress) -> None:
        """Receive the rest of the file. Raises httpx2.HTTPError if the connection ends before."""
        import httpx2
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        is_hubs = urlsplit(self.metadata.location).netloc == urlsplit(self.url).netloc
        headers = build_hf_headers(token=None if is_hubs else False)  # a token is for the hub alone
        headers["Accept-Encoding"] = "identity"
        if part.tell():
            headers["Range"] = f"bytes={part.tell()}-"
        with get_session().stream(
            "GET", self.metadata.location, headers=headers, follow_redirects=True, timeout=_TIMEOUT
        ) as response:
            hf_raise_for_status(response)
            if part.tell() and response.status_code != 206:  # a server that cannot continue begins anew
                part.truncate(part.seek(0))
            for chunk in response.iter_bytes(_CHUNK):
                part.write(chunk)
                progress(self.file, part.tell(), self.size)
        if part.tell() < self.size:
            raise httpx2.ReadError("the connection ended too early")

    def _renew(self) -> None:
        """Ask for the file's address again: it may be valid for some minutes only."""
        from huggingface_hub import get_hf_file_metadata

        with suppress(Exception):  # the next try reports what is wrong
            metadata = get_hf_file_metadata(self.url, timeout=_TIMEOUT, endpoint=hub_endpoint())
            if metadata.etag == self.metadata.etag:
                self.metadata = metadata

    def _check(self) -> None:
        """Raise ModelError, and remove the part, if it is not what the hub stated: by SHA-256, or by git's
        SHA-1 for small files."""
        expected = self.blob.name
        digest = hashlib.sha256() if len(expected) == 64 else hashlib.sha1(b"blob %d\0" % self.size)
        with self.part.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != expected:
            self.part.unlink()
            raise ModelError(
                f"{self.file} arrived damaged: its checksum is {digest.hexdigest()[:12]}…, and the hub "
                f"states {expected[:12]}…; it was removed, so try again"
            )


# -- room, bars, errors -------------------------------------------------------------------------------


def _check_room(repository: Repository, files: Sequence[str], cache: Path) -> None:
    """Raise OutputError if the files do not fit on the disk, before the first byte is fetched."""
    folder = repository_folder(cache, repository.name.repository)
    here = sum(path.stat().st_size for path in (folder / "blobs").glob("*.incomplete"))
    snapshots = list(folder.glob("snapshots/*"))
    missing = [file for file in files if not any((snapshot / file).exists() for snapshot in snapshots)]
    needed = sum(repository.sizes[file] for file in missing) - here
    existing = next(each for each in (cache, *cache.absolute().parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OutputError(
            f"{repository.name} takes {needed / 2**30:.1f} GiB, and {cache} has {free / 2**30:.1f} GiB free; "
            "free some, or let HF_HOME name a folder on another disk"
        )


@contextmanager
def _bars(progress: Progress | None) -> Iterator[Progress]:
    """Yield ``progress``, or what draws one bar for each file."""
    if progress:
        yield progress
        return
    from huggingface_hub import utils

    make_bar: Any = utils.tqdm  # its types are not stated
    bars: dict[str, Any] = {}

    def show(file: str, done: int, total: int) -> None:
        if file not in bars:
            bars[file] = make_bar(total=total, unit="B", unit_scale=True, desc=file)
        bars[file].update(done - bars[file].n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()


@contextmanager
def _errors_in_words(name: HubName) -> Iterator[None]:
    """Raise errors of the hub, the network and the disk as ours, in a sentence that says what to do."""
    import httpx2
    from huggingface_hub import errors

    try:
        if is_offline():
            raise ModelError(
                f"{name} is not on this disk, and HF_HUB_OFFLINE forbids the network; `pass-edge models` "
                "lists the models that are here"
            )
        yield
    except errors.HfHubHTTPError as error:
        raise ModelError(_refused(name, error)) from error
    except errors.HFValidationError as error:
        raise ModelError(f"{name.repository} is no name of a repository on the hub") from error
    except (httpx2.HTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ModelError(
            f"{name} is not on this disk as a whole, and {hub_endpoint()} cannot be reached ({error}). What "
            "has arrived is kept, and the same command continues it; `pass-edge models` lists what is here"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        advice = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "; free some space, and the same command continues the download"
        raise OutputError(f"{name} cannot be stored in {hub_cache()}: {reason}{advice}") from error


def _refused(name: HubName, error: Any) -> str:
    """Return a sentence for an answer of the hub that is an error."""
    from huggingface_hub import errors, get_token

    address, status = f"{hub_endpoint()}/{name.repository}", error.response.status_code
    token = (
        "the token that is used may not read it"
        if get_token()
        else "set HF_TOKEN to a token that may read it"
    )
    if isinstance(error, errors.GatedRepoError):
        return f"{name.repository} is gated: accept its conditions at {address}, and {token}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name.repository} has no revision {name.revision}"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{name.repository} has no file {name.which}"
    if isinstance(error, errors.RepositoryNotFoundError):
        similar = similar_repositories(name.repository)
        meant = f"; there are {', '.join(similar)}" if similar else ""
        return (
            f"there is no {name.repository}, neither here nor at {address}{meant}; if it is private, {token}"
        )
    if status == 401:
        return f"{hub_endpoint()} does not accept the token in HF_TOKEN, or of `hf auth login`; it may be old"
    if status == 403:
        return f"{hub_endpoint()} does not let this account read {name.repository}; {token}"
    return f"{hub_endpoint()} answered {status} for {name.repository}; try again later"
