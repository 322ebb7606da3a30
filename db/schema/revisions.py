"""The revisions that the files of this installation have, in branches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError

from db.errors import SchemaError
from db.schema.branches import KERNEL, Branch, branches
from db.schema.state import joined


class Revisions:
    """All revisions of some branches. Lives as long as one operation: a file may be added after it.

    Args:
        models: the setting ``database.models``, which decides what branches there are.

    Raises:
        SchemaError: the first of these modules cannot be imported.
    """

    def __init__(self, models: Sequence[str] = ()) -> None:
        self.branches = branches(tuple(models))

    def config(self, **attributes: object) -> Config:
        """Alembic's configuration, made here: there is no alembic.ini to be found, or lost."""
        config = Config(attributes=attributes)
        config.set_main_option("script_location", f"{__name__.rpartition('.')[0]}:migrations")
        folders = "\n".join(str(branch.folder) for branch in self.branches.values())
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", folders.replace("%", "%%"))
        return config

    @cached_property
    def scripts(self) -> ScriptDirectory:
        """Alembic's view of the files."""
        return ScriptDirectory.from_config(self.config())

    @property
    def head(self) -> str:
        """The newest of every branch, as one text; one that another's revision depends on is implied."""
        newest = joined(script.revision for script in self.scripts.get_revisions("heads"))
        if newest is None:
            folders = ", ".join(str(branch.folder) for branch in self.branches.values())
            raise SchemaError(f"this installation has no migrations: is {folders} part of it?")
        return newest

    @property
    def known(self) -> frozenset[str]:
        """The name of each."""
        return frozenset(script.revision for script in self.scripts.walk_revisions())

    def branch(self, label: str | None) -> Branch:
        """A branch; without a label the only one besides the kernel's, or the kernel's alone.

        Raises:
            SchemaError: there is no such branch, or several are there to choose from.
        """
        others = [branch for branch in self.branches.values() if branch.label != KERNEL]
        if label is None and len(others) < 2:
            return others[0] if others else self.branches[KERNEL]
        if label is not None and label in self.branches:
            return self.branches[label]
        fault = f"there is no branch {label!r}" if label else "several branches are there"
        raise SchemaError(f"{fault}: choose one of {', '.join(self.branches)}")

    def newest(self, branch: Branch) -> Script | None:
        """The newest revision of a branch; None where it has none yet."""
        try:
            return self.scripts.get_revision(f"{branch.label}@head")
        except CommandError:
            return None

    def resolve(self, to: str) -> str:
        """The full name of a revision, or Alembic's word for all that are newest.

        Raises:
            SchemaError: there is none of that name.
        """
        if to == "head":
            return "heads"
        try:
            if to in self.branches:
                script = self.newest(self.branches[to])
            else:
                script = self.scripts.get_revision(to) if to else None
        except CommandError:
            script = None
        if script is None:
            choices = ", ".join([*self.branches, *sorted(self.known)])
            raise SchemaError(f"there is no revision {to!r}: choose head or one of {choices}")
        return script.revision

    def applied(self, at: Iterable[str]) -> Iterator[Script]:
        """Revisions and all that they came after, or depend on."""
        for revision in at:  # one at a time: Alembic refuses revisions of which one implies the other
            yield from self.scripts.iterate_revisions(revision, "base")

    def labels(self, at: Iterable[str]) -> set[str]:
        """The branches whose tables a database at these revisions has."""
        return {label for script in self.applied(at) for label in script.branch_labels} & {*self.branches}

    def line(self, branch: Branch) -> list[Script]:
        """The revisions of a branch, oldest first, without those that they depend on."""
        newest = self.newest(branch)
        found = [] if newest is None else [*self.applied([newest.revision])]
        return [script for script in reversed(found) if branch.label in script.branch_labels]


def following(branch: Branch, newest: Script | None) -> str | None:
    """The name of a branch's next revision: the one with the next number.

    None where the newest has none: one of Alembic's own making.
    """
    if newest is None:
        return f"{branch.label}_0001"
    name = re.sub(r"\d+$", lambda number: f"{int(number[0]) + 1:0{len(number[0])}}", newest.revision)
    return name if name != newest.revision else None
