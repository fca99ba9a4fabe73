"""Where the server listens, whom it lets in, and how much it takes on."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from pass_edge.native.errors import SettingsError


@dataclass(frozen=True)
class ServerSettings:
    """Raises SettingsError on values that cannot be.

    ``api_key``: what clients must know, None for nobody to ask; an address that others can reach needs one.
    ``port`` 0 is any that is free. ``name``: the model's, for clients (None: the file's). ``queue``: requests
    that may wait while others are answered. ``time_limit``: seconds an answer may take, from its first step
    on. ``body_limit``: bytes of a request's body. ``drain``: seconds that answers have to end when the server
    is told to stop.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    name: str | None = None
    queue: int = 16
    time_limit: float = 600.0
    body_limit: int = 4 << 20
    drain: float = 30.0

    def __post_init__(self) -> None:
        for name, least in (("port", 0), ("queue", 0), ("time_limit", 0.1), ("body_limit", 1), ("drain", 0)):
            value = getattr(self, name)
            if not value >= least:
                raise SettingsError(f"{name.replace('_', '-')} is {value}; it must be {least} or more")
        if self.port > 65535:
            raise SettingsError(f"port is {self.port}; ports end at 65535")
        if self.api_key is not None and not self.api_key.strip():
            raise SettingsError("the api-key is empty")
        if not self.is_loopback and self.api_key is None:
            raise SettingsError(
                f"{self.host} can be reached from other machines, so it needs an --api-key; "
                "without one, only 127.0.0.1 is served"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
