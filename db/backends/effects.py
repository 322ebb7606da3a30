"""What a statement does to its transaction and its session, judged by its text."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from db.guard import CHANGES_SESSION, ENDS_TRANSACTION

_REMEMBERED = 1024
_REMEMBERED_CHARS_MAX = 4096
"""A longer text is a bulk insert's, another one for each number of rows: a thousand of them are 100 MB."""

_ORDINARY = frozenset({"select", "insert", "update", "delete", "with", "savepoint", "release"})
_FIRST_WORD = re.compile(r"[\s(]*([a-z]+)")
_EXPLAIN = re.compile(r"explain (?:\([^)]*\) ?)?(?:analyze |verbose )*")
_ENDS = r"(?:commit|end|abort|begin|start transaction|rollback(?! (?:work |transaction )?to\b))\b"


class Grammar:
    """One database's statements, as far as their effects go. Lives as long as the process.

    The patterns are matched against lower case, with single blanks, without comments and quoted text.

    Args:
        noise: comments, text in quotes, names in quotes (a group called "name").
        ends: how a statement begins that ends a transaction, beside those of every database.
        changes: how a statement begins that changes the session.
        anywhere: what changes the session wherever it stands in a statement.
        words: a statement that begins as most do, and has none of these, has no effect: the cheap look.
    """

    several = False
    """One text may hold several statements."""

    def __init__(
        self, *, noise: str, changes: str, ends: str = "", anywhere: str = "", words: tuple[str, ...] = ()
    ) -> None:
        self._noise = re.compile(noise, re.DOTALL)
        self._ends = re.compile("|".join(filter(None, [_ENDS, ends])))
        self._changes = re.compile(changes)
        self._anywhere = re.compile(anywhere or "(?!)")
        self._words = words
        self._remembered = functools.lru_cache(_REMEMBERED)(self._judge)

    def effect_of(self, sql: str) -> int:
        """The effect of a text, 0 for most. Remembers what it has found for the last texts."""
        return self._remembered(sql) if len(sql) <= _REMEMBERED_CHARS_MAX else self._judge(sql)

    def _judge(self, sql: str) -> int:
        lower = sql.lower()
        first = _FIRST_WORD.match(lower)
        if first and first[1] in _ORDINARY and not any(word in lower for word in self._words):
            return 0
        effect = 0
        for statement in self._statements(self._plain(lower)):
            effect |= self._of_one(_EXPLAIN.sub("", statement.lstrip(" (;*/"), count=1), lower)
        return effect

    def _plain(self, lower: str) -> str:
        return " ".join(self._noise.sub(_name_or_blank, lower).split())

    def _statements(self, text: str) -> list[str]:
        return [text]

    def _of_one(self, statement: str, lower: str) -> int:
        if self._ends.match(statement):
            return ENDS_TRANSACTION
        return CHANGES_SESSION if self._changes_session(statement) else 0

    def _changes_session(self, statement: str) -> bool:
        return bool(self._changes.match(statement) or self._anywhere.search(statement))


class PostgresGrammar(Grammar):
    """PostgreSQL's: several statements in a text, DO with a body in quotes, ``set_config``."""

    _BODY = re.compile(r"\$((?:[a-z_]\w*)?)\$(.*?)\$\1\$|'((?:[^']|'')*)'", re.DOTALL)
    _BLOCK = re.compile(r"\b(?:begin|then|else|loop|declare)\b|;")

    def _statements(self, text: str) -> list[str]:
        # The body of a function in SQL has statements of its own, of which none is executed now.
        return [text] if text.startswith("create ") and " begin atomic " in text else text.split(";")

    def _of_one(self, statement: str, lower: str) -> int:
        if statement.startswith("do "):
            return CHANGES_SESSION if any(map(self._block_changes, self._BODY.finditer(lower))) else 0
        return super()._of_one(statement, lower)

    def _block_changes(self, body: re.Match[str]) -> bool:
        text = self._plain(body[3].replace("''", "'") if body[2] is None else body[2])
        parts = [part.strip() for part in self._BLOCK.split(text)]
        # What EXECUTE executes is put together when it runs.
        return any(part.startswith("execute ") or self._changes_session(part) for part in parts)

    def _changes_session(self, statement: str) -> bool:
        return super()._changes_session(statement) or any(
            last not in ("true", "is_local => true", "is_local := true")
            for last in _last_arguments(statement, "set_config")
        )


def _name_or_blank(match: re.Match[str]) -> str:
    if match["name"] is None:
        return " '' " if match[0][-1] in "'\"$" else " "
    inner = match["name"][1:-1]
    return inner if inner.isidentifier() else "x"


def _last_arguments(statement: str, function: str) -> Iterator[str]:
    """The last argument of each call of a function."""
    for call in re.finditer(rf"\b{function} ?\(", statement):
        depth, began = 0, call.end()
        end = len(statement)
        for at in range(call.end(), end):
            character = statement[at]
            if character == "," and depth == 0:
                began = at + 1
            elif character in "([":
                depth += 1
            elif character in ")]":
                depth -= 1
                if depth < 0:
                    end = at
                    break
        yield statement[began:end].strip()


POSTGRESQL = PostgresGrammar(
    noise=r"--[^\n]*|/\*.*?\*/|\be'(?:[^'\\]|\\.)*'|'[^']*'|\$(?P<tag>(?:[a-z_]\w*)?)\$.*?\$(?P=tag)\$"
    r'|(?P<name>"[^"]*")',
    ends=r"prepare transaction\b",
    changes=r"set (?!local |transaction |constraints )|reset |discard |listen |unlisten |load |prepare "
    r"|deallocate |declare .*\bwith hold\b|update (?:only )?(?:pg_catalog\.)?pg_settings\b"
    r"|create (?:or replace )?(?:(?:global|local) )?temp(?:orary)? (?!.*\bon commit drop\b)"
    r"|create [^(]*\bpg_temp ?\.",
    anywhere=r"(?<!\binsert )(?<!\bmerge )\binto (?:(?:(?:global|local) )?temp(?:orary)? "
    r"|(?:table )?pg_temp ?\.)"
    r"|\bpg_(?:try_)?advisory_lock(?:_shared)? ?\(|\bdblink_connect(?:_u)? ?\(",
    words=(";", "set_config", "advisory_lock", "temp", "dblink_connect", "pg_settings"),
)

SQLITE = Grammar(
    noise=r"--[^\n]*|/\*.*?(?:\*/|$)|'[^']*'" r'|(?P<name>"[^"]*"|`[^`]*`|\[[^\]]*\])',
    changes=r"attach |detach |create temp(?:orary)? "
    r"|create (?:virtual )?(?:table|view|index|trigger) (?:if not exists )?temp ?\."
    r"|pragma (?:\w+ ?\. ?)?(?!(?:table_x?info|table_list|index_x?info|index_list|foreign_key_list"
    r"|foreign_key_check|integrity_check|quick_check|wal_checkpoint|optimize|incremental_vacuum)\b)"
    r"\w+ ?[=(]",
)

MYSQL = Grammar(
    # What stands between /*! and */ is executed.
    noise=r"(?:--\s|#)[^\n]*|/\*(?!m?!).*?\*/|/\*m?!\d*|\*/|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
    r"|(?P<name>`[^`]*`)",
    ends=r"xa |lock tables? |set .*\bautocommit\b",
    changes=r"set (?!statement )|create (?:or replace )?temporary |prepare |(?:deallocate|drop) prepare "
    r"|use |handler ",
    anywhere=r"\bget_lock ?\(|@\w+ ?:=|\binto @",
    words=("get_lock", "@", "/*!", "/*m!"),
)
