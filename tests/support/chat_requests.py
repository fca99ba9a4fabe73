"""Messages and tools for chat requests."""

from __future__ import annotations

MESSAGES = [{"role": "user", "content": "yes the"}]
GO = {
    "type": "function",
    "function": {
        "name": "go",
        "parameters": {
            "type": "object",
            "properties": {"fast": {"$ref": "#/$defs/flag"}},
            "required": ["fast"],
            "$defs": {"flag": {"type": "boolean"}},
        },
    },
}
STOP = {"type": "function", "function": {"name": "stop"}}
