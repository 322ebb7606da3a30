"""The command line: flags from the settings' models, commands from the modules in ``server.commands``."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from operator import attrgetter
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, Literal, NoReturn, Protocol, cast, get_args, get_origin

from pydantic import SecretStr

from conf import Fault, Settings, SettingsError, load_settings
from conf.logs import set_up_logs
from conf.masks import mask_text, mask_value
from conf.names import Name, names, near
from conf.program import PREFIX
from server import commands

log = logging.getLogger("onfinish.cli")

DEFAULT_COMMAND = "serve"
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_PACKAGE = __name__.rpartition(".")[0]
_DEST = "setting "  # no command's own option can have this prefix

_GENERAL = "What chooses the file, and what concerns everything."
_EPILOG = f"""\
Brackets hold the environment variable and the default. A setting may also be
in {"<conf-dir>" if PREFIX else "conf"}/<environment>.toml. Flags win over variables, variables over the file,
the file over the defaults; the command 'config' shows which has won. Every user
of the machine can read flags (ps): give passwords as variables.

exit status: 0 done, 1 failed, 2 wrong settings or usage, 130 interrupted
"""


class Command(Protocol):
    """A module of ``server.commands``, named as its command is."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own arguments. Those of the settings have been added already."""

    def run(self, settings: Settings, arguments: argparse.Namespace) -> int:
        """Run the command; slow imports belong in here. Returns the exit status."""


def find_commands() -> dict[str, Command]:
    """Every command by its name: a module in ``server.commands``, or in a package there, is one."""
    modules = [
        module.name
        for module in walk_packages(commands.__path__, f"{commands.__name__}.")
        if not module.ispkg
    ]
    found = {name.rpartition(".")[2]: name for name in modules}
    return {
        command: cast(Command, import_module(found[command]))
        for command in sorted(found)
        if not command.startswith("_")
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status. Wrong settings and wrong usage are 2, and are printed on the standard error.
    """
    try:
        status = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `… config | head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains
        return 1


def _main(argv: list[str]) -> int:
    found = find_commands()
    parser, known = build_parser(found)
    argv, overrides, faults = _sift(argv, known, [*found])
    try:
        arguments = parser.parse_args(argv)
        if arguments.command is None:
            arguments = parser.parse_args([*argv, DEFAULT_COMMAND])
    except UsageError as exc:
        faults = [*faults, Fault("", "", str(exc))]
        arguments = argparse.Namespace()
    overrides |= {
        key.removeprefix(_DEST): value for key, value in vars(arguments).items() if key.startswith(_DEST)
    }
    settings: Settings | None = None
    try:
        settings = load_settings(overrides)
    except SettingsError as exc:
        faults = [*faults, *exc.faults]
    if faults or settings is None:
        print(f"{parser.prog}: {SettingsError(faults)}", file=sys.stderr)
        return 2

    set_up_logs(settings.log)
    if settings.database.models and not sys.flags.safe_path:
        # The application's folder, which `python -m` puts there, and a script's start does not.
        sys.path.insert(0, os.getcwd())
    _warn_of_database_from_variable(settings)
    _warn_of_misspelt_variables()
    return run_command(
        found[arguments.command], settings, arguments, prog=f"{parser.prog} {arguments.command}"
    )


def _warn_of_misspelt_variables() -> None:
    """Log each variable that is hardly another than a setting's: that setting has its default, unnoticed."""
    known = {name.variable for name in names().values()}
    for variable in sorted({*os.environ} - known):
        for meant in difflib.get_close_matches(variable, known - {*os.environ}, n=1, cutoff=0.9):
            log.warning("there is no setting with the variable %s: did you mean %s?", variable, meant)


def _warn_of_database_from_variable(settings: Settings) -> None:
    """In testing, log which database a variable has chosen: a shell may export the URL of a real one."""
    if settings.environment != "testing":
        return
    database = settings.database
    chosen = "database.url" if database.url is not None else "database.drivername"
    shown = {chosen: f"the database is {database.shown_url}"}
    if database.shown_reader_url is not None:
        shown["database.reader_url"] = f"reads go to {database.shown_reader_url}"
    for setting, what in shown.items():
        origin = settings.origin_of(setting)
        if origin.startswith("environment "):
            log.warning("environment testing: %s, from %s", what, origin)


def run_command(command: Command, settings: Settings, arguments: argparse.Namespace, *, prog: str) -> int:
    """Run one command; an error of the database becomes a line on the standard error, and exit status 1.

    With ``--log-level debug`` the traceback is in the log.
    """
    # Slow to import: `--help`, and settings that are wrong, are answered without them.
    from sqlalchemy.exc import SQLAlchemyError

    from db.errors import DatabaseError

    try:
        return command.run(settings, arguments)
    except SettingsError as exc:  # a fault that only the command could find
        print(f"{prog}: {exc}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as exc:
        from db.backends.packages import way_to_install

        fix = way_to_install(exc)
        if fix is None:
            raise
        print(f"{prog}: {exc}: {fix} installs it", file=sys.stderr)
    except DatabaseError as exc:
        print(f"{prog}: {exc}{_where(exc.__cause__, settings)}", file=sys.stderr)
        log.debug("%s failed", prog, exc_info=True)
    except SQLAlchemyError as exc:  # its message may quote a value of the URL
        print(
            f"{prog}: these settings cannot be used ({type(exc).__name__}){_where(exc, settings)}",
            file=sys.stderr,
        )
        log.debug("%s failed", prog, exc_info=True)
    return 1


def _where(exc: BaseException | None, settings: Settings) -> str:
    """The driver's message, and the database's URL; nothing for an error that does not come from a driver."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    if not isinstance(exc, SQLAlchemyError):
        return ""
    reason = (
        f": {mask_text(str(exc.orig)).strip().partition(chr(10))[0]}" if isinstance(exc, DBAPIError) else ""
    )
    database = settings.database
    origin = settings.origin_of("database.url" if database.url is not None else "database.drivername")
    return f"{reason} [{database.shown_url}, from {origin}]"


_INVALID_CHOICE = re.compile(r"invalid choice: '([^']*)'")


class UsageError(Exception):
    """The command line cannot be read. Nothing was done; the message may be shown."""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps ``[PORT; 8888]`` on one line."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        joined = re.sub(r"\[[^\]]*\]$", lambda match: match[0].replace(" ", "\0"), text)
        return [line.replace("\0", " ") for line in super()._split_lines(joined, width)]


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit, so that wrong settings are reported together with it.

    ``commands``: those that it takes, for a hint where another one is given.
    """

    commands: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        unknown = _INVALID_CHOICE.search(message)
        hint = near(unknown[1], [*self.commands]) if unknown is not None else ""
        raise UsageError(f"{mask_text(message)}{hint}; see {self.prog} --help")


def build_parser(found: dict[str, Command]) -> tuple[argparse.ArgumentParser, dict[str, argparse.Action]]:
    """The parser, and every flag of it and its commands.

    The flags of the settings are accepted before the command and after it.
    """
    prog = "onfinish" if Path(sys.argv[0]).stem.startswith("onfinish") else f"python -m {_PACKAGE}"
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [COMMAND] [--SETTING VALUE ...]",
        description="A Tornado service in which every request owns one SQLAlchemy session.",
        epilog=_EPILOG,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,  # --pool would become ambiguous as soon as a setting is added
    )
    parser.add_argument(
        "--version", action="version", version=f"onfinish {_version()}", help="show it and exit"
    )
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", prog=prog, parser_class=_Parser
    )
    parser.commands = [*found]
    settings = _Parser(add_help=False, allow_abbrev=False)  # once, not once a command: a tenth of a second
    _add_settings(settings, shown=False)
    for name, command in found.items():
        subparser = subparsers.add_parser(
            name,
            parents=[settings],
            help=command.SUMMARY + (" (the default)" if name == DEFAULT_COMMAND else ""),
            description=command.SUMMARY[0].upper() + command.SUMMARY[1:] + ".",
            epilog=f"Every setting is a flag as well: see {prog} --help.",
            allow_abbrev=False,
        )
        command.add_arguments(subparser)
    _add_settings(parser, shown=True)
    parsers = [parser, *subparsers.choices.values()]
    return parser, {flag: action for each in parsers for flag, action in each._option_string_actions.items()}


def _add_settings(parser: argparse.ArgumentParser, *, shown: bool) -> None:
    """A flag for each setting, without default: a default of the command's parser would reset it."""
    defaults = Settings()
    groups: dict[str, argparse._ActionsContainer] = {}
    for name in names().values():
        if shown and name.section not in groups:
            about = type(getattr(defaults, name.section)).__doc__ if name.section else _GENERAL
            title = name.section or "general"
            groups[name.section] = parser.add_argument_group(title, f"{about}".partition(".")[0] + ".")
        group = groups.get(name.section, parser)
        options: dict[str, Any] = {"dest": _DEST + name.path, "default": argparse.SUPPRESS}
        options["help"] = _help(name, defaults) if shown else argparse.SUPPRESS
        if bool in name.types:
            group.add_argument(name.flag, action=argparse.BooleanOptionalAction, **options)
        else:
            group.add_argument(name.flag, metavar=_metavar(name), **options)


def _help(name: Name, defaults: Settings) -> str:
    value: Any = attrgetter(name.path)(defaults)
    if isinstance(value, SecretStr) and name.path.endswith("url"):
        value = value.get_secret_value()
    text = mask_value(value)
    default = "none" if text in (None, {}, []) else str(text).lower() if isinstance(text, bool) else text
    return f"{name.field.description} [{name.variable}; {default}]".replace("%", "%%")


def _metavar(name: Name) -> str:
    kind = name.types[0]
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if name.path.endswith("_s"):
        return "S"
    return {int: "N", float: "N", Path: "FOLDER", dict: "TABLE", tuple: "LIST"}.get(
        kind, "URL" if name.path.endswith("url") else "TEXT"
    )


def _sift(
    argv: list[str], known: dict[str, argparse.Action], command_names: list[str]
) -> tuple[list[str], dict[str, Any], list[Fault]]:
    """Remove what argparse would stop at: unknown flags, and boolean flags with a value.

    argparse reports the first mistake only, and quotes unknown arguments, passwords too.

    Returns:
        The arguments that are left, settings by path, faults.
    """
    left: list[str] = []
    overrides: dict[str, Any] = {}
    faults: list[Fault] = []
    skip_value = False
    for index, argument in enumerate(argv):
        if argument == "--":
            left += argv[index:]
            break
        flag, equals, value = argument.partition("=")
        action = known.get(flag)
        if skip_value and not argument.startswith("-") and argument not in command_names:
            skip_value = False  # the value of an unknown flag
        elif flag.startswith("--") and action is None:
            hint = near(flag, [each for each in known if each.startswith("--")])
            faults.append(Fault(f"flag {mask_text(flag)}", "", f"no such flag{hint}"))
            skip_value = not equals
        elif equals and isinstance(action, argparse.BooleanOptionalAction) and not flag.startswith("--no-"):
            overrides[action.dest.removeprefix(_DEST)] = value
        else:
            skip_value = False
            left.append(argument)
    return left, overrides, faults


def _version() -> str:
    try:
        return metadata.version("onfinish")
    except metadata.PackageNotFoundError:
        return "(not installed)"
