"""The declarative base of the board's tables."""

from __future__ import annotations

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from db.base import NAMING_CONVENTION


class Base(DeclarativeBase):
    """The declarative base of the board's tables. Lives as long as the process."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
