"""The page to chat in: one file, which may run its own script and style, and talk to this server only."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from starlette.responses import Response

_HTML = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def _hash_of(tag: str) -> str:
    """Return the hash by which a content security policy allows the page's one ``tag``."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", _HTML, re.DOTALL)
    assert found
    return "'sha256-" + base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode() + "'"


_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash_of('script')}; style-src {_hash_of('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page() -> Response:
    """Return the page."""
    return Response(_HTML, media_type="text/html", headers=_HEADERS)
