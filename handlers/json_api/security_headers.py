"""The headers that OWASP recommends for every answer of a REST service.

https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

REVALIDATED = "private, no-cache"
"""``Cache-Control`` of an answer with an ``ETag``: the client's cache keeps it, and revalidates it each time.

Under ``no-store`` a browser keeps nothing, so it would never send ``If-None-Match``, and 304 would be for
clients alone that keep answers themselves. Shared caches keep neither.
"""

SECURITY_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        # The sheet's own list, without the names that no browser knows, or not on every system: each is a
        # complaint in its console. An API needs it only where an answer is shown as a page.
        "Permissions-Policy": "accelerometer=(), autoplay=(), camera=(), cross-origin-isolated=(), "
        "display-capture=(), encrypted-media=(), fullscreen=(), geolocation=(), gyroscope=(), "
        "keyboard-map=(), magnetometer=(), microphone=(), midi=(), payment=(), picture-in-picture=(), "
        "publickey-credentials-get=(), screen-wake-lock=(), sync-xhr=(), usb=(), xr-spatial-tracking=()",
    }
)

# A year, as the sheet on it says; without includeSubDomains, since other services may live below the name.
_OVER_TLS: Mapping[str, str] = MappingProxyType(
    {**SECURITY_HEADERS, "Strict-Transport-Security": "max-age=31536000"}
)


def security_headers(protocol: str) -> Mapping[str, str]:
    """The headers of an answer.

    Args:
        protocol: ``https`` where the client came over TLS, to this process or to a proxy that is believed.
            Anywhere else browsers have to ignore Strict-Transport-Security.
    """
    return _OVER_TLS if protocol == "https" else SECURITY_HEADERS
