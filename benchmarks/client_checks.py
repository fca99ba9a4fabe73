"""Make the checks of the clients that this interpreter has; ``clients.py`` runs this. Each row is printed."""

from __future__ import annotations

import argparse
import os
import traceback
from collections.abc import Collection, Iterator
from importlib import metadata

import client_agent_checks  # noqa: F401  their checks are in CHECKS
import client_library_checks  # noqa: F401
from client_under_test import CHECKS, KEY


def rows(url: str, clients: Collection[str], *, shows_traceback: bool) -> Iterator[tuple[str, str, str, str]]:
    """Client, version, what it did, and what came of it, for each check of ``clients``."""
    for client, check in CHECKS:
        if client not in clients:
            continue
        try:
            version = metadata.version(client)
        except metadata.PackageNotFoundError:
            continue
        try:
            check(url)
            result = "works"
        except Exception as error:
            result = f"fails: {type(error).__name__} {' '.join(str(error).split())[:150]}"
            if shows_traceback:
                traceback.print_exc()
        yield client, version, check.__doc__ or "", result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("clients", nargs="*", help="those to check")
    parser.add_argument("--traceback", action="store_true")
    chosen = parser.parse_args()
    os.environ |= {"OPENAI_API_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    for row in rows(f"{chosen.url}/v1", chosen.clients, shows_traceback=chosen.traceback):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
