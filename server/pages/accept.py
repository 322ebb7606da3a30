"""What form of an answer a client prefers."""

from __future__ import annotations

_JSON = ("application/json", "application/problem+json", "application/*")


def prefers_html(accept: str) -> bool:
    """Whether a client's ``Accept`` ranks HTML above JSON, as that of a browser does which opens a page.

    https://www.rfc-editor.org/rfc/rfc9110#section-12.5.1
    """
    ranks: dict[str, float] = {}
    for part in accept.split(","):
        kind, *parameters = (each.strip().lower() for each in part.split(";"))
        rank = 1.0
        for name, _, value in (parameter.partition("=") for parameter in parameters):
            if name.strip() == "q":
                try:
                    rank = float(value)
                except ValueError:
                    rank = 0.0
        ranks[kind] = max(rank, ranks.get(kind, 0.0))
    of_any = ranks.get("*/*", 0.0)
    html = ranks.get("text/html", ranks.get("text/*", of_any))
    return html > max((ranks[kind] for kind in _JSON if kind in ranks), default=of_any)
