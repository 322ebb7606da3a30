"""The packages that bring the drivers which do not come with the service."""

from __future__ import annotations

from conf import DatabaseSettings

_PACKAGES = {"psycopg": "'psycopg[binary]'"}
"""Those whose name is not the module's."""


def way_to_install(missing: ModuleNotFoundError, settings: DatabaseSettings) -> str:
    """How to install a module that the settings' driver needs, and with it all that the driver needs."""
    url = settings.url.get_secret_value() if settings.url is not None else settings.drivername or ""
    name = url.partition("://")[0].partition("+")[2]
    packages = _PACKAGES.get(name) or _PACKAGES.get(missing.name or "") or missing.name
    return f"pip install {packages}"
