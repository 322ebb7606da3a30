"""The database of a command that needs one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conf import Fault, Settings, SettingsError

if TYPE_CHECKING:
    from db.backend import Backend


def backend_of(settings: Settings) -> Backend:
    """The backend of the configured database. Does not connect.

    Raises:
        SettingsError: its driver is known to SQLAlchemy, but has no backend in ``db.backends``.
    """
    from db.backends.choose import backend_for
    from db.engines.engine import make_url

    try:
        return backend_for(make_url(settings.database))
    except ValueError as exc:
        path = "database.url" if settings.database.url is not None else "database.drivername"
        raise SettingsError([Fault(path, settings.origin_of(path), str(exc))]) from None
