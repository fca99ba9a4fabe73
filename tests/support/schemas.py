"""JSON schemas as apps send them: from pydantic, from zod, and from OpenAPI documents."""

from __future__ import annotations

from typing import Any

from pydantic import AnyUrl, BaseModel, ConfigDict, Field, RootModel, conint, constr  # noqa: F401

REAL_SCHEMAS: dict[str, Any] = {}
