"""The declarative base of the library's tables."""

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from db.base import NAMING_CONVENTION


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
