"""An examination of an SQLite file, and of where it lies."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection

from conf import DatabaseSettings
from conf.program import COMMAND
from db.backend import Backend
from db.doctor.findings import Finding, Plan, error, ok, warning

_OLDEST = (3, 35)  # UPDATE … RETURNING
_FREE_MIB_MIN = 200
_MIB = 1024 * 1024

# Locks and shared memory over a network are what WAL cannot do: https://www.sqlite.org/wal.html
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs")


def absent(backend: Backend) -> Finding | None:
    """A finding where there is no such file; None where there is, or where the name is not a plain one."""
    name = str(backend.url.database)
    path = Path(name).absolute()
    if backend.shares_one_connection or name.startswith("file:") or path.exists():
        return None
    if not path.parent.is_dir():
        return error("file", f"there is no folder {path.parent}", f"mkdir -p {path.parent}")
    if not os.access(path.parent, os.W_OK):
        fix = f"chown or chmod u+w {path.parent}"
        return error("file", f"there is no {path}, and none can be made: its folder may not be written", fix)
    return warning("file", f"there is no {path} yet", "`serve` and `seed` make it, with its schema")


def examine(connection: Connection, settings: DatabaseSettings, plan: Plan) -> Iterator[Finding]:
    """Look at the file that the reader has open. Changes nothing."""
    version = str(connection.exec_driver_sql("SELECT sqlite_version()").scalar_one())
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        fix = "use a Python that brings a newer one"
        yield error("server", f"SQLite {version}, and {'.'.join(map(str, _OLDEST))} is the oldest here", fix)
    else:
        yield ok("server", f"SQLite {version}")
    name = str(connection.exec_driver_sql("PRAGMA database_list").mappings().first()["file"])  # type: ignore[index]
    if not name:
        fix = "give a file: --database-url sqlite:///onfinish.db"
        yield warning("file", "the database is in memory, and gone with the process", fix)
        return
    path = Path(name)
    yield from _rights(path, plan)
    yield from _place(path)
    mode = str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())
    if mode == "wal":
        yield ok("journal", "WAL: readers and the writer do not wait for each other")
    else:
        fix = "put the file on a local disk that this user may write, and start again"
        yield error("journal", f"journal_mode is {mode}, not WAL: readers will stop the writer", fix)
    if plan.production:
        fix = f"DATABASE_URL=postgresql://…, then `{COMMAND} migrate`"
        yield warning("file", "SQLite in production: one writer at a time, on one machine", fix)
    elif plan.processes > 1:
        fix = "set http.processes to 1, or use PostgreSQL"
        yield warning("file", f"{plan.processes} processes share one file, and write it one at a time", fix)


def _rights(path: Path, plan: Plan) -> Iterator[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    told = f"{path} ({path.stat().st_size / _MIB:.1f} MiB, {mode:o})"
    if not os.access(path, os.W_OK):
        yield error("file", f"{told} may not be written by this user", f"chown or chmod u+w {path}")
    elif not os.access(path.parent, os.W_OK):
        fix = f"chown or chmod u+w {path.parent}"
        yield error("file", f"{path.parent} may not be written: WAL makes two files beside {path.name}", fix)
    elif mode & stat.S_IROTH and plan.production:
        yield warning("file", f"{told} may be read by every user of this machine", f"chmod 600 {path}")
    else:
        yield ok("file", told)


def _place(path: Path) -> Iterator[Finding]:
    kind = _file_system(path)
    if kind in _NETWORK:
        fix = "move the file to a disk of this machine, or use PostgreSQL"
        yield error("disk", f"{path} is on a network file system ({kind}), where WAL loses data", fix)
        return
    free_mib = shutil.disk_usage(path.parent).free // _MIB
    if free_mib < _FREE_MIB_MIN:
        yield warning("disk", f"{free_mib} MiB are free beside {path}", "make room, or move the file")
    else:
        yield ok("disk", f"{kind or 'local'}, {free_mib:,} MiB free")


def _file_system(path: Path) -> str:
    """The kind of the file system that a file is on; empty where the system does not report it."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    best = ("", "")
    for line in mounts:
        _, folder, kind, *_ = line.split(" ")
        folder = folder.replace("\\040", " ")
        if path.resolve().is_relative_to(folder) and len(folder) >= len(best[0]):
            best = (folder, kind)
    return best[1]
