"""Makes pytest-tornado run on today's pytest and setuptools, without a warning.

pytest-tornado 0.8.1 wants two things that are gone or going: ``pkg_resources``, which setuptools 82
dropped, and hooks marked by ``pytest.mark.tryfirst``, which pytest warns about. This module is loaded
by ``-p`` (in ``addopts``), so before pytest loads pytest-tornado by its entry point: it imports that plugin
under a stand-in for ``pkg_resources``, marks the two hooks as pytest wants them, and puts the kit's event
loop in place of the plugin's.
"""

from __future__ import annotations

import sys
import types

import packaging.version
import pytest

from server.testing.loop import io_loop

_stand_in = types.ModuleType("pkg_resources")
_stand_in.parse_version = packaging.version.parse  # type: ignore[attr-defined]
_real = sys.modules.get("pkg_resources")

sys.modules["pkg_resources"] = _stand_in
try:
    from pytest_tornado import plugin
finally:
    # Only for the time of the import: no other import is to find the stand-in.
    if _real is None:
        del sys.modules["pkg_resources"]
    else:
        sys.modules["pkg_resources"] = _real

plugin.io_loop = io_loop

for _name in ("pytest_pycollect_makeitem", "pytest_pyfunc_call"):
    _hook = getattr(plugin, _name)
    _hook.pytestmark = []
    setattr(plugin, _name, pytest.hookimpl(tryfirst=True)(_hook))
