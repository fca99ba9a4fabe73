"""The settings of the server: its address, its API key and its limits."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from pass_edge.native.errors import SettingsError


@dataclass(frozen=True)
class ServerSettings:
    """The settings of a server. Raises SettingsError on invalid values.

    ``api_key``: the key that clients must send; None asks for none, which only a loopback address allows.
    ``port`` 0 takes any free one. ``time_limit``: most seconds of an answer, not counting the wait.
    ``body_limit``: most bytes of a request's body. ``drain``: seconds that answers have to end in after the
    signal to stop. ``page``: whether there is a page to chat in.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    time_limit: float = 600.0
    body_limit: int = 4 << 20
    drain: float = 30.0
    page: bool = True

    def __post_init__(self) -> None:
        for name, minimum in (
            ("port", 0),
            ("time_limit", 0.1),
            ("body_limit", 1),
            ("drain", 0),
        ):
            value = getattr(self, name)
            if not value >= minimum:
                raise SettingsError(f"{name.replace('_', '-')} is {value}; it must be {minimum} or more")
        if self.port > 65535:
            raise SettingsError(f"port is {self.port}; it must be 65535 or less")
        if self.api_key is not None and not self.api_key.strip():
            raise SettingsError("the api-key is empty; give one, or leave the option out")
        if not self.is_loopback and self.api_key is None:
            raise SettingsError(
                f"other machines can reach {self.host}, so it needs an --api-key; "
                "without a key, use --host 127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the host."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
