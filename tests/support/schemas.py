"""JSON schemas as apps send them: from pydantic, from zod, and from OpenAPI documents."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AnyUrl, BaseModel, ConfigDict, Field, RootModel, conint, constr  # noqa: F401

REAL_SCHEMAS: dict[str, Any] = {}
