"""The command that opens a Python shell on the database."""

from __future__ import annotations

import argparse
import builtins
import code
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from conf import Settings
from conf.masks import mask_text
from server.commands._backend import backend_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db import Database

SUMMARY = "open a Python shell with the application's models and a session that only reads"

_READ_ONLY = (
    "this shell only reads, and the database refused a write: start it with --write, and write in "
    "`with work() as session:`"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--write",
        action="store_true",
        help="no session that reads, but `with work() as session:`, each block a transaction",
    )
    parser.add_argument(
        "-c", dest="code", metavar="CODE", help="run this, and end; so does what a pipe delivers"
    )
    parser.add_argument(
        "--plain", action="store_true", help="Python's own shell, also where IPython is installed"
    )


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run code, from the terminal, an argument or a pipe. Connects with the first statement.

    Returns:
        1 where the code of ``-c`` or of a pipe raises, 0 otherwise; that of `SystemExit` is passed on.

    Raises:
        SettingsError: this database is not supported.
        DatabaseError: a module of the models cannot be imported.
    """
    from db import Database

    backend_of(settings)
    if arguments.write and settings.production:
        _say(f"environment {settings.environment}: what this shell commits is real")
    interactive = arguments.code is None and sys.stdin.isatty()
    database = Database(settings.database)
    try:
        with contextlib.ExitStack() as stack:
            names, session = _names(settings, database), None
            if arguments.write:
                names["work"] = _work(database)
            else:
                session = stack.enter_context(database.session_scope(read_only=True, label="shell"))
                names["session"] = session
            shell = _Shell(names, database, session)
            if not interactive:
                return shell.run(sys.stdin.read() if arguments.code is None else arguments.code)
            banner = _banner(settings, names, writes=arguments.write)
            if arguments.plain or not _interact_in_ipython(shell, banner):
                shell.interact_plainly(banner)
            return 0
    finally:
        database.dispose()


def _work(database: Database) -> Callable[[], contextlib.AbstractContextManager[Session]]:
    from db.outcome import Outcome

    ends = {
        Outcome.COMMITTED: "committed",
        Outcome.ROLLED_BACK: "rolled back: nothing is kept",
        Outcome.UNKNOWN: "unknown: whether it was committed, the database has not said",
    }

    @contextlib.contextmanager
    def work() -> Iterator[Session]:
        """A transaction: committed at the end of the block, rolled back where it raises."""
        unit = None
        try:
            with database.session_scope(label="work()") as session:
                (unit,) = database.open_units
                yield session
        finally:
            if unit is not None:
                _say(ends[unit.outcome])

    return work


def _names(settings: Settings, database: Database) -> dict[str, Any]:
    """What the shell's code finds: the models, and what queries are made of."""
    import sqlalchemy

    from db.schema.branches import branches

    found: dict[str, Any] = {}
    for branch in [*branches(settings.database.models).values()][::-1]:
        for name, module in branch.modules.items():
            for value in vars(module).values():
                is_own = isinstance(value, type) and value.__module__ == name
                if is_own and sqlalchemy.inspect(value, raiseerr=False) is not None:
                    found.setdefault(value.__name__, value)
    common = {each: getattr(sqlalchemy, each) for each in ("func", "select", "text")}
    return found | common | {"database": database, "sa": sqlalchemy}


def _banner(settings: Settings, names: dict[str, Any], *, writes: bool) -> str:
    mode = "writes: `with work() as session:`, each block a transaction"
    reads = "reads only: `session`; --write is for changes"
    return "\n".join(
        [
            f"onfinish shell ({settings.environment})",
            f"  database  {settings.database.shown_url}",
            f"  mode      {mode if writes else reads}",
            f"  names     {', '.join(sorted(names))}",
        ]
    )


class _Shell(code.InteractiveConsole):
    """Runs code, and shows errors of the database in a line. Lives as long as the command.

    Args:
        names: what the code finds.
        database: says what an error means.
        session: the one that reads; None where the shell writes.
    """

    def __init__(self, names: dict[str, Any], database: Database, session: Session | None) -> None:
        super().__init__({"__name__": "__console__", "__builtins__": builtins, **names})
        self._database = database
        self._session = session

    def run(self, source: str) -> int:
        """Run a program. Returns 1 where it raises, and has shown the error then."""
        try:
            program = compile(source, "<shell>", "exec")
        except (SyntaxError, ValueError, OverflowError):
            self.showsyntaxerror("<shell>")
            return 1
        return 0 if self._runs(program) else 1

    def runcode(self, code: Any) -> None:
        """Run one input of a terminal."""
        self._runs(code)

    def _runs(self, program: Any) -> bool:
        failed = True
        try:
            exec(program, self.locals)  # a shell is for that
            failed = False
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:  # noqa: BLE001  # whatever the program raises is shown
            self.showtraceback()
        finally:
            failed = not self.release(failed=failed)
        return not failed

    def release(self, *, failed: bool) -> bool:
        """Release the session's connection until its next statement: nothing is open while a terminal waits.

        Returns:
            Whether all went well: not where rows were added or changed, which is refused here at the latest.
        """
        from sqlalchemy.orm import Session

        if self._session is None:
            return not failed
        try:
            if not failed:
                self._session.flush()
        except Exception:  # noqa: BLE001  # shown as those of the program are
            self.showtraceback()
            failed = True
        finally:
            # Past the unit of work, which has nothing to lose by it: rows in use are loaded again.
            Session.rollback(self._session)
        return not failed

    def showtraceback(self) -> None:
        """Show the error that is handled: in a line where it is the database's, else as Python does."""
        line = self.line_for(sys.exception())
        if line is None:
            super().showtraceback()
        else:
            self.write(f"{line}\n")

    def line_for(self, error: BaseException | None) -> str | None:
        """What an error of the database means; None for any other."""
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        from db.errors import DatabaseError, ReadOnlyViolation

        backend = self._database.reader.scopes_backend
        if isinstance(error, DBAPIError):
            if self._session is not None and backend.refuses_write(error):
                return _READ_ONLY
            told = backend.translate(error)
            return (
                f"{type(told).__name__}: {told}: {mask_text(str(error.orig)).strip().partition(chr(10))[0]}"
            )
        if isinstance(error, ReadOnlyViolation):
            return _READ_ONLY
        if isinstance(error, DatabaseError | SQLAlchemyError):
            return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return None

    def interact_plainly(self, banner: str) -> None:
        """Read the terminal until its end."""
        with contextlib.suppress(ImportError):  # a Python without them has no history and no completion
            import readline
            import rlcompleter

            readline.set_completer(rlcompleter.Completer(dict(self.locals)).complete)
            readline.parse_and_bind("tab: complete")
        with contextlib.suppress(SystemExit):
            self.interact(banner, exitmsg="")


def _interact_in_ipython(shell: _Shell, banner: str) -> bool:
    """The same in IPython. Returns whether it is installed."""
    try:
        from IPython.terminal.interactiveshell import TerminalInteractiveShell
    except ModuleNotFoundError:
        return False
    from sqlalchemy.exc import SQLAlchemyError

    from db.errors import DatabaseError

    def show(ipython: Any, kind: type[BaseException], error: BaseException, *_: Any, **__: Any) -> None:
        print(shell.line_for(error), file=sys.stderr)

    ipython: Any = TerminalInteractiveShell.instance(user_ns=dict(shell.locals), banner1=f"{banner}\n")
    ipython.confirm_exit = False
    ipython.set_custom_exc((DatabaseError, SQLAlchemyError), show)
    ipython.events.register("post_run_cell", lambda result: shell.release(failed=not result.success))
    ipython.show_banner()
    ipython.mainloop()
    return True


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
