"""What a branch's tables and a database differ in: in sentences, and as the statements of a revision."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Collection, Iterable, Iterator
from types import ModuleType
from typing import Any, Literal, NamedTuple, cast

from alembic import autogenerate
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import renderers
from alembic.migration import MigrationContext
from alembic.operations import ops
from sqlalchemy import CheckConstraint, ClauseElement, Connection, MetaData, Table, inspect
from sqlalchemy.schema import DefaultClause
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine
from sqlalchemy.util import generic_repr

from db.engines._sqlalchemy import is_of_a_type
from db.errors import SchemaError
from db.portable import types
from db.portable.spelled import spelled, spellings, without_binds


def differences(connection: Connection, options: dict[str, Any]) -> list[str]:
    """A sentence for each difference; ``options`` are Alembic's."""
    context = MigrationContext.configure(connection, opts=options)
    metadata = options["target_metadata"]
    found = autogenerate.compare_metadata(context, metadata)
    sentences = [_sentence(difference) for difference in found]
    return sentences + [
        f"check {each.table.name}.{each.name} is in the {'database' if each.check is None else 'code'} only"
        for each in _checks(connection, metadata)
    ]


class Statements(NamedTuple):
    """What a revision does, as source, and what it imports for that."""

    body: str
    imports: Collection[str]


NOTHING = Statements("pass", ())


def statements(
    connection: Connection, options: dict[str, Any], modules: Iterable[ModuleType] = ()
) -> Statements | None:
    """What brings a database to where the code is, for any database; None where nothing differs.

    Args:
        options: Alembic's.
        modules: the application's. A type that is a constant in one of them is imported by its name.

    Raises:
        SchemaError: a type of the application's cannot be written as source.
    """
    context = MigrationContext.configure(connection, opts=options)
    metadata = options["target_metadata"]
    upgrade = autogenerate.produce_migrations(context, metadata).upgrade_ops
    if upgrade is None:
        return None
    for each in _checks(connection, metadata):
        operations = _operations_of(upgrade, each.table)
        if each.check is None:  # before a column goes that it is about
            operations.insert(0, ops.DropConstraintOp(each.name, each.table.name, type_="check"))
        else:
            operations.append(PortableCheck.from_constraint(each.check))
    if upgrade.is_empty():
        return None
    _take_from_the_code(upgrade, metadata)
    source = Source(modules)
    body = autogenerate.render_python_code(
        upgrade, render_as_batch=True, render_item=source.render, migration_context=context
    )
    return Statements(textwrap.dedent(f"    {body}"), source.imports)


class PortableCheck(ops.CreateCheckConstraintOp):
    """A CHECK that is added to a table. Alembic asks no hook how to write that; this has its own renderer."""


@renderers.dispatch_for(PortableCheck)
def _render_check(context: AutogenContext, operation: PortableCheck) -> str:
    source: Source = cast(Any, context.opts["render_item"]).__self__
    condition = source.expression(cast(ClauseElement, operation.condition))
    return f"batch_op.create_check_constraint(batch_op.f({operation.constraint_name!r}), {condition})"


def _operations_of(upgrade: ops.UpgradeOps, table: Table) -> list[ops.MigrateOperation]:
    """Where what is done to a table is kept."""
    for each in upgrade.ops:
        if isinstance(each, ops.ModifyTableOps) and each.table_name == table.name:
            return each.ops
    modify = ops.ModifyTableOps(table.name, [], schema=table.schema)
    upgrade.ops.append(modify)
    return modify.ops


def _take_from_the_code(upgrade: ops.UpgradeOps, metadata: Iterable[MetaData]) -> None:
    """What stays of a column as the code has it: as reflected it is this database's alone.

    MySQL is told all of a column where one thing of it changes. What a table has in its ``info`` is for the
    program, and reaches no database.
    """
    tables = {table.name: table for each in metadata for table in each.sorted_tables}
    for each in upgrade.ops:
        if isinstance(each, ops.CreateTableOp):
            each.info = {}
        for change in each.ops if isinstance(each, ops.ModifyTableOps) else ():
            if isinstance(change, ops.AlterColumnOp):
                columns = {column.name: column for column in tables[change.table_name].columns}
                column = columns[change.column_name]
                if change.modify_type is None:
                    change.existing_type = column.type
                if change.modify_server_default is False:
                    change.existing_server_default = cast(Any, column.server_default)


class Source:
    """Alembic's hook that writes types, defaults and checks as source. Lives for one revision."""

    def __init__(self, modules: Iterable[ModuleType] = ()) -> None:
        self._own: dict[str, str] = {}
        self._alembics: set[str] = set()
        self._constants = {
            id(value): (module.__name__, name)
            for module in [*modules, types]  # of two names the kernel's is taken
            for name, value in vars(module).items()
            if isinstance(value, TypeEngine)
        }

    @property
    def imports(self) -> set[str]:
        """The statements that what was written needs, besides those of every revision."""
        return {f"from {module} import {name}" for name, module in self._own.items()} | self._alembics

    def render(self, kind: str, item: Any, context: AutogenContext) -> str | Literal[False]:
        """The source of an item; False for what Alembic writes as well."""
        self._alembics = context.imports
        match kind, item:
            case "type", TypeEngine() if id(item) in self._constants:
                module, name = self._constants[id(item)]
                return self._imported(module, name)
            case "type", TypeEngine() if not type(item).__module__.startswith("sqlalchemy."):
                return self._type(item)
            case "server_default", DefaultClause(arg=ClauseElement() as expression):
                return self.expression(expression)
            case "check", CheckConstraint(sqltext=ClauseElement() as expression) if not is_of_a_type(item):
                name = "" if item.name is None else f", name=op.f({str(item.name)!r})"
                return f"sa.CheckConstraint({self.expression(expression)}{name})"
        return False

    def expression(self, expression: ClauseElement) -> str:
        """The source of an SQL expression.

        A function without arguments is imported. Any other expression is its text, by database where that
        differs: a revision must not change when the code does.
        """
        if isinstance(expression, FunctionElement) and not len(expression.clauses):
            own = type(expression)
            if not own.__module__.startswith("sqlalchemy."):
                return f"{self._named(own)}()"
            if own.__module__ == "sqlalchemy.sql.functions" and not getattr(expression, "packagenames", ()):
                return f"sa.func.{expression.name}()"
        found = spellings(expression)
        if not found:
            raise SchemaError(f"no database has a text for {expression!r}: write it as sqlalchemy.text()")
        common = found.get("postgresql", next(iter(found.values())))
        others = {name: spelling for name, spelling in found.items() if spelling != common}
        if not others:
            return f"sa.text({without_binds(common)!r})"
        by_database = "".join(f", {name}={spelling!r}" for name, spelling in others.items())
        return f"{self._named(spelled)}({common!r}{by_database})"

    def _type(self, item: TypeEngine[Any]) -> str:
        """A call of the type's own class, the first that makes the same type on every database."""
        own = type(item)
        wanted = spellings(item)
        for call in (generic_repr(item), repr(item), f"{own.__name__}()"):
            try:
                made = _called(own, call)
            except (TypeError, ValueError, SyntaxError):
                continue
            if spellings(made) == wanted:
                return self._named(own) + call[call.index("(") :]
        raise SchemaError(
            f"the type {own.__module__}.{own.__qualname__} cannot be written into a revision: give it a "
            "__repr__ that is a call of it, with literals as arguments"
        )

    def _named(self, own: type) -> str:
        """The name of a class in the revision, which imports it."""
        self._imported(own.__module__, own.__qualname__.partition(".")[0])
        return own.__qualname__

    def _imported(self, module: str, name: str) -> str:
        if self._own.setdefault(name, module) != module:
            raise SchemaError(f"{self._own[name]} and {module} both have a {name}: rename one of them")
        return name


def _called(own: type[TypeEngine[Any]], source: str) -> TypeEngine[Any]:
    call = ast.parse(source, mode="eval").body
    if not isinstance(call, ast.Call):
        raise ValueError(source)
    arguments = [ast.literal_eval(each) for each in call.args]
    return own(*arguments, **{str(each.arg): ast.literal_eval(each.value) for each in call.keywords})


class _Check(NamedTuple):
    """A CHECK that only one of code and database has."""

    table: Table
    name: str
    check: CheckConstraint | None
    """The code's; None for the database's."""


def _checks(connection: Connection, metadata: Iterable[MetaData]) -> Iterator[_Check]:
    """Alembic compares no CHECK constraints. Their names are ours; their text each database rewrites."""
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    for table in (table for each in metadata for table in each.sorted_tables):
        if table.name not in there:
            continue
        checks = [each for each in table.constraints if isinstance(each, CheckConstraint)]
        expected = {str(each.name): each for each in checks if each.name is not None}
        reflected = inspector.get_check_constraints(table.name)
        found = {str(each["name"]) for each in reflected if each["name"] is not None}
        yield from (_Check(table, name, expected[name]) for name in sorted(expected.keys() - found))
        if len(expected) == len(checks):  # else it may be one that the database has named
            yield from (_Check(table, name, None) for name in sorted(found - expected.keys()))


def _sentence(difference: Any) -> str:
    """One of Alembic's differences in words: "add" for what the database lacks, "remove" for the rest."""
    if isinstance(difference, list):  # what differs in one column
        return "; ".join(map(_sentence, difference))
    operation, *what = difference
    verb, _, kind = operation.partition("_")
    if verb == "modify":
        _, table, column, _, there, expected = what
        return f"{kind} of {table}.{column} is {there!r} in the database, {expected!r} in the code"
    subject = what[-1]
    table = what[-2] if kind == "column" else getattr(getattr(subject, "table", None), "name", None)
    name = f"{table}.{subject.name}" if table else subject.name
    return f"{kind} {name} is in the {'code' if verb == 'add' else 'database'} only"
