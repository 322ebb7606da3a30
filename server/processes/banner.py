"""What a server prints when it begins to serve."""

from __future__ import annotations

from conf import Settings
from db.backends.choose import backend_for
from db.engines.engine import make_url
from server.edge.listening import Listening
from server.pages.pages import addresses


def banner(settings: Settings, listening: Listening) -> list[str]:
    """The lines: where the service listens, its database, the pages that are there for a browser.

    Nothing is asked of the database.
    """
    address = settings.http.address
    host = f"[{address}]" if ":" in address else address
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    main = f"http://{host}:{listening.port}/"
    found = [f"onfinish ({settings.environment}) listens on {main}", *_database(settings)]
    if settings.http.processes > 1:
        found.append(f"  processes {settings.http.processes}")
    if listening.ops_port is not None:
        found.append(f"  metrics   http://127.0.0.1:{listening.ops_port}/metrics")
    ops = None if listening.ops_port is None else f"http://127.0.0.1:{listening.ops_port}/"
    label = "pages"
    for url, about in addresses(settings, main=main, ops=ops):
        found.append(f"  {label:<9} {url:<34} {about}".rstrip())
        label = ""
    return found


def _database(settings: Settings) -> list[str]:
    database = settings.database
    found = [f"  database  {database.shown_url}"]
    file = backend_for(make_url(database), database.pooler).file
    if file is not None and str(file) not in database.shown_url:
        found.append(f"            {file}")
    if database.shown_reader_url is not None:
        found.append(f"  reads     {database.shown_reader_url}")
    return found
