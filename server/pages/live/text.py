"""The live page as text, for a terminal."""

from __future__ import annotations

import textwrap

from server.pages.live.rows import seconds
from server.pages.live.view import View

_WIDTH = 100


def text_of(view: View) -> str:
    """All that the page shows, but for the form of its charts. Control characters are left out."""
    live = view.live
    lines = [view.at, ""]
    for chart in view.charts:
        waiting = f", {chart.waiting} waiting" if chart.waiting else ""
        lines.append(f"{chart.name:<7} {chart.taken} of {chart.size} slots in use{waiting}")
    lines += [f"process {process} does not answer" for process in live.stuck]
    if live.why_no_locks:
        lines.append(f"locks: {live.why_no_locks}")
    lines += ["", f"open units of work: {live.open}"]
    for row in live.rows:
        lines.append("")
        lines.append(f"{seconds(row.age_s):>8}  {row.name}  {row.request_id}  process {row.process}")
        lines.append(f"          {row.headline}")
        lines += [f"          held by {holder}" for holder in (*row.holders, *row.strangers)]
        if row.place is not None:
            place = row.place
            lines.append(f"          at {place['file']}:{place['line']} {place['function']}: {place['text']}")
        if row.sql:
            sql = textwrap.shorten(row.sql, 3 * _WIDTH, placeholder=" …")
            lines += textwrap.wrap(sql, _WIDTH, initial_indent=" " * 10, subsequent_indent=" " * 10)
    lines += ["", "in ten minutes: " + ", ".join(f"{number} {name}" for name, number in view.counts.items())]
    lines += ["", f"no slot was free, since {view.since}:"]
    # Nothing is known of another database's pools.
    known = [chart.name for chart in view.charts if chart.name in view.past.full]
    lines += [f"{pool:>8}  {span}" for pool in known for span in view.full(pool) or ("never",)]
    return "\n".join("".join(c for c in line if c.isprintable()).rstrip() for line in lines) + "\n"
