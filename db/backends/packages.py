"""The packages that bring the modules which do not come with the service."""

from __future__ import annotations

from importlib.util import find_spec

_PACKAGES = {"psycopg": "'psycopg[binary]'"}
"""Those whose name is not the module's."""


def way_to_install(missing: ModuleNotFoundError) -> str | None:
    """How to install a module; None for a part of a package that is there, whose importer is at fault."""
    package = (missing.name or "").partition(".")[0]
    if not package or find_spec(package) is not None:
        return None
    return f"pip install {_PACKAGES.get(package, package)}"
