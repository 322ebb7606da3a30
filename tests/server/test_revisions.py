"""`migrate revision`, `history`, `current` and `stamp`, of an application with a package of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.databases import RawSql
from tests.server.test_cli import Run, run

GOODS = """
    import enum
    from datetime import datetime
    from decimal import Decimal
    from typing import Any

    from sqlalchemy import CheckConstraint, DateTime, Enum, Index, String, func, text
    from sqlalchemy.orm import Mapped, mapped_column

    from db.base import Json, SerialId, UtcDateTime, now
    from db.constraints import refusals
    from db.portable.types import NUMBERS_ONCE, chars, empty_json
    from shop.base import Base
    from shop.types import Code, Money


    class Colour(enum.Enum):
        red = "red"
        blue = "blue"


    class Thing(Base):
        __tablename__ = "goods"
        id: Mapped[int] = mapped_column(SerialId, primary_key=True)
        name: Mapped[str] = mapped_column(String(64), unique=True)
        code: Mapped[str] = mapped_column(Code(12), index=True, server_default="it's a:b")
        price: Mapped[Decimal] = mapped_column(Money(10))
        colour: Mapped[Colour] = mapped_column(Enum(Colour))
        more: Mapped[dict[str, Any]] = mapped_column(Json, server_default=empty_json())
        made: Mapped[datetime] = mapped_column(UtcDateTime, server_default=now())
        plain: Mapped[datetime] = mapped_column(DateTime, server_default=func.now())
        number: Mapped[int] = mapped_column(server_default=text("7"))
        spare: Mapped[int] = mapped_column(server_default=text("1"))
        __table_args__ = (
            CheckConstraint("spare > 0", name="spare"),
            CheckConstraint(chars(name).between(1, 64), name="name"),
            CheckConstraint(r"code <> '\\:x' AND code NOT LIKE '5%'", name="code"),
            Index("ix_goods_made_name", "made", "name"),
            {"info": {"about": object()}, **NUMBERS_ONCE},
        )


    refusals["ck_goods_name"] = "a name has 64 characters at most"
"""

SHOP = {
    "__init__.py": "",
    "base.py": """
        from sqlalchemy import MetaData
        from sqlalchemy.orm import DeclarativeBase

        from db.base import NAMING_CONVENTION


        class Base(DeclarativeBase):
            metadata = MetaData(naming_convention=NAMING_CONVENTION)
    """,
    "types.py": """
        from sqlalchemy import Numeric, String, TypeDecorator


        class Money(TypeDecorator):
            impl = Numeric
            cache_ok = True

            def __init__(self, digits):
                super().__init__(digits, 2)
                self.digits = digits


        class Code(TypeDecorator):
            impl = String
            cache_ok = True
    """,
    "goods.py": GOODS,
    "later/__init__.py": "",
    "later/orders.py": """
        from sqlalchemy import ForeignKey
        from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

        from db.base import SerialId
        from shop.base import Base


        class Order(Base):
            __tablename__ = "orders"
            id: Mapped[int] = mapped_column(SerialId, primary_key=True)
            thing_id: Mapped[int] = mapped_column(SerialId, ForeignKey("goods.id", ondelete="CASCADE"))


        class Other(DeclarativeBase):
            pass


        class Note(Other):
            __tablename__ = "notes"
            id: Mapped[int] = mapped_column(primary_key=True)
    """,
    "__main__.py": "raise SystemExit('was run')",
}

CHANGES = {
    '        spare: Mapped[int] = mapped_column(server_default=text("1"))\n': "",
    '            CheckConstraint("spare > 0", name="spare"),\n': "",
    'index=True, server_default="it\'s a:b"': "nullable=True",  # an index, a default and a NOT NULL less
    "Mapped[str] = mapped_column(Code(12)": "Mapped[str | None] = mapped_column(Code(20)",
    "plain: Mapped[datetime]": "plain: Mapped[datetime | None]",
    "made: Mapped[datetime]": "made: Mapped[datetime | None]",
    'server_default=text("7"))': (
        'server_default=text("8"))\n'
        "        seen: Mapped[datetime | None] = mapped_column(UtcDateTime, server_default=now())"
    ),
    'CheckConstraint(r"code': (
        'CheckConstraint(chars(name) != 3, name="short"), CheckConstraint(r"number > 0 AND code'
    ),
    '"number > 0 AND code <>': '"code <>',
    ', name="code"),': ', name="spelt"),',
}
"""Columns and checks of the second revision, which replace those of the first."""


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))


def migrate(folder: Path, *arguments: str, url: str) -> Run:
    return run("migrate", *arguments, cwd=folder, DATABASE_URL=url, DATABASE_MODELS="shop")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The folder in which an application has its package `shop`."""
    write(tmp_path / "shop", SHOP)
    return tmp_path


@pytest.fixture(scope="module")
def revised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application with two revisions, both written on SQLite by what the tables were then."""
    folder = tmp_path_factory.mktemp("revised")
    url = f"sqlite:///{folder}/written.db"
    write(folder / "shop", SHOP)
    first = migrate(folder, "revision", "-m", 'The "goods"', "--autogenerate", url="sqlite://")
    assert (first.status, first.err) == (0, ""), first.err
    assert migrate(folder, url=url).status == 0
    changed = GOODS
    for was, becomes in CHANGES.items():
        assert was in changed
        changed = changed.replace(was, becomes)
    write(folder / "shop", {"goods.py": changed})
    second = migrate(folder, "revision", "--message", "Codes are spelt", "--autogenerate", url=url)
    assert (second.status, second.err) == (0, ""), second.err
    return folder


@pytest.fixture(
    params=["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.debian)],
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/shop.db"
        return
    server = request.getfixturevalue(
        "postgres_cluster" if request.param == "postgresql" else "mariadb_server"
    )
    name = server.create_database()
    yield server.url_for(name)
    server.drop_database(name)


def test_revisions_that_are_written_on_sqlite_upgrade_every_database(revised: Path, url: str):
    """Step by step, with a row between them; the schema is then as the code has it."""
    first = migrate(revised, "--to", "app_0001", url=url)
    sql = RawSql(url)
    sql("INSERT INTO goods (name, price, colour) VALUES ('mint', 2.5, 'red')")

    second = migrate(revised, url=url)

    assert (first.status, first.err, second.status, second.err) == (0, "", 0, ""), first.err + second.err
    checked = migrate(revised, "check", url=url)
    assert (checked.status, checked.out.splitlines()[0]) == (
        0,
        "schema is at app_0002, kernel_0003, as the code expects",
    ), checked.out
    assert sql("SELECT name, code, number FROM goods") == [{"name": "mint", "code": "it's a:b", "number": 7}]


def test_a_refusal_by_a_written_constraint_has_its_sentence(revised: Path, url: str):
    """The constraint has the name that the code gives it, and counts characters, not bytes."""
    migrate(revised, url=url)
    program = """
        import sys
        from conf import DatabaseSettings
        from db import Database
        from db.errors import Conflict
        from shop.goods import Colour, Thing

        database = Database(DatabaseSettings(url=sys.argv[1]))
        for name in ("\\u00fc" * 64, ""):
            try:
                with database.session_scope() as session:
                    session.add(Thing(name=name, price=1, colour=Colour.blue))
            except Conflict as refused:
                print(refused)
        database.dispose()
    """

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), url],
        cwd=revised,
        env={"PYTHONPATH": f"{revised}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("a name has 64 characters at most\n", "")


def test_a_written_revision_is_formatted_and_imports_the_applications_types(revised: Path):
    """Formatted and sorted, for lines of any width; own types are imported; no word of one database alone."""
    first, second = sorted((revised / "shop" / "migrations").glob("app_*.py"))
    text = first.read_text()

    assert (first.name, second.name) == ("app_0001_the_goods.py", "app_0002_codes_are_spelt.py")
    for width in ("88", "110"):
        checks = [["format", "--check", "--diff"], ["check", "--select", "E,F,I"]]
        for check in checks:
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *check, "--isolated", "--line-length", width, first, second]
                + (["--config", "src=['.']"] if check[0] == "check" else []),
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
    assert "from shop.types import Code, Money\n" in text
    assert 'sa.Column("id", SERIAL_ID, nullable=False)' in text
    assert 'sa.Column("made", UtcDateTime(), server_default=now(), nullable=False)' in text
    assert 'sa.Column("plain", sa.DateTime(), server_default=sa.func.now(), nullable=False)' in text
    assert ("strftime" in text, "object at" in text) == (False, False)
    assert 'sa.UniqueConstraint("name", name=op.f("uq_goods_name"))' in text


def test_check_names_the_modules_and_a_table_of_another_base_is_among_them(shop: Path):
    url = f"sqlite:///{shop}/shop.db"
    before = migrate(shop, "check", url=url)
    migrate(shop, "revision", "-m", "all", "--autogenerate", url="sqlite://")
    migrate(shop, url=url)

    checked = migrate(shop, "check", url=url)

    assert {f"table {name} is in the code only" for name in ("goods", "orders", "notes")} <= {
        *before.out.splitlines()
    }
    assert checked.out.splitlines()[1:] == [
        "  kernel: 2 tables of db.idempotency, db.work.commit_marker",
        "  app: 3 tables of shop, shop.base, shop.goods, shop.later, shop.later.orders, shop.types",
    ]


def test_a_revision_is_empty_where_nothing_is_asked_for(shop: Path):
    """And the first one needs no database and no revision before it; the next comes after it."""
    nowhere = "postgresql://me@127.0.0.1:1/x"
    first = migrate(shop, "revision", "-m", "by hand?", url=nowhere)
    second = migrate(shop, "revision", "-m", "more", url=nowhere)

    assert (first.status, second.status, first.err + second.err) == (0, 0, "")
    path = shop / "shop/migrations/app_0001_by_hand.py"
    assert first.out == f"{path}: read it before it is run\n"
    assert path.read_text() == textwrap.dedent('''\
        """by hand?"""

        from __future__ import annotations

        from alembic import op

        revision = "app_0001"
        down_revision = None
        branch_labels = ("app",)
        depends_on = None


        def upgrade() -> None:
            pass
    ''')
    assert migrate(shop, "history", url=nowhere).out.splitlines()[4:] == [
        "app",
        "  app_0002  more.",
        "  app_0001  by hand?",
    ]
    url = f"sqlite:///{shop}/shop.db"
    migrated, shown = migrate(shop, url=url), migrate(shop, "current", url=url)
    assert migrated.out == "schema is at app_0002, kernel_0003 (was empty)\n", migrated.err
    assert shown.out == "kernel: kernel_0003\napp: app_0002\n"


def test_current_shows_each_branch_and_what_is_newest(shop: Path):
    url = f"sqlite:///{shop}/shop.db"
    migrate(shop, "revision", "-m", "all", "--autogenerate", url="sqlite://")
    migrate(shop, "--to", "kernel_0002", url=url)

    shown = migrate(shop, "current", url=url)

    assert shown.out.splitlines() == [
        "kernel: kernel_0002, the newest is kernel_0003",
        "app: not there, the newest is app_0001",
    ]


def test_tables_that_were_made_otherwise_are_stamped(shop: Path):
    """Not before they are there, and not where the version table is another application's."""
    url = f"sqlite:///{shop}/shop.db"
    migrate(shop, "revision", "-m", "all", "--autogenerate", url="sqlite://")
    migrate(shop, "--to", "kernel", url=url)
    early = migrate(shop, "stamp", "app", url=url)
    program = "import sys, sqlalchemy as sa; from shop.goods import Base; "
    program += "from shop.later.orders import Order, Other; engine = sa.create_engine(sys.argv[1]); "
    program += "Base.metadata.create_all(engine); Other.metadata.create_all(engine)"
    subprocess.run(
        [sys.executable, "-c", program, url],
        env={"PYTHONPATH": f"{shop}:{Path(__file__).parents[2]}"},
        check=True,
    )

    stamped = migrate(shop, "stamp", "app", url=url)

    assert (early.status, early.told) == (
        1,
        [
            "python -m server migrate: no table of app is there: "
            "`python -m server migrate --to app` makes them"
        ],
    )
    assert (stamped.status, stamped.out) == (0, "schema is at app_0001, kernel_0003 (was kernel_0003)\n")
    assert migrate(shop, "check", url=url).status == 0
    sql = RawSql(url)
    sql("DELETE FROM alembic_version")
    sql("INSERT INTO alembic_version VALUES ('a1b2c3')")
    for table in ("commit_witness", "idempotency_keys"):
        sql(f"DROP TABLE {table}")
    foreign = migrate(shop, "stamp", "head", url=url)
    assert (foreign.status, "another application's" in foreign.err) == (1, True)
    assert sql("SELECT version_num FROM alembic_version") == [{"version_num": "a1b2c3"}]
    assert "another application's" in migrate(shop, "current", url=url).err


def test_a_revision_is_compared_with_a_database_that_is_at_the_newest(shop: Path):
    """Else it would do what the one before it does; and one that nothing differs for is not written."""
    url = f"sqlite:///{shop}/shop.db"
    migrate(shop, "revision", "-m", "all", "--autogenerate", url="sqlite://")
    behind = migrate(shop, "revision", "-m", "more", "--autogenerate", url=url)
    migrate(shop, url=url)

    same = migrate(shop, "revision", "-m", "more", "--autogenerate", url=url)
    made_for_it = migrate(shop, "revision", "-m", "more", "--autogenerate", url="sqlite://")

    assert (behind.status, "the next revision comes after app_0001" in behind.err) == (1, True)
    assert (same.status, "no revision is written" in same.out) == (0, True)
    assert made_for_it.out == same.out
    assert len(list((shop / "shop/migrations").glob("app_*"))) == 1


def test_a_model_that_a_database_cannot_have_is_told_where_the_revision_is_written(shop: Path):
    goods = GOODS.replace("String(64)", "String")
    write(shop / "shop", {"goods.py": goods})

    done = migrate(shop, "revision", "-m", "all", "--autogenerate", url="sqlite://")

    assert done.status == 0
    assert [line.partition(":")[0] for line in done.told] == ["not for mysql", "not for mariadb"]
    assert "VARCHAR requires a length" in done.err


def test_a_type_that_has_no_source_is_named(shop: Path):
    types = SHOP["types.py"].replace("self.digits = digits", "pass")
    write(shop / "shop", {"types.py": types})

    done = migrate(shop, "revision", "-m", "all", "--autogenerate", url="sqlite://")

    assert (done.status, "shop.types.Money cannot be written" in done.err) == (1, True)
    assert not (shop / "shop" / "migrations").exists()


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["revision"], "migrate revision needs a message: -m 'the goods'"),
        (["revision", "-m", "x", "--branch", "nope"], "there is no branch 'nope': choose one of kernel, app"),
        (["stamp"], "migrate stamp needs a revision"),
        (["check", "--autogenerate"], "migrate check takes no --autogenerate"),
        (["-m", "x"], "migrate takes no --message"),
        (["history", "app"], "migrate history takes no REVISION"),
    ],
)
def test_arguments_that_do_not_belong_together_are_refused(shop: Path, arguments: list[str], fault: str):
    done = migrate(shop, *arguments, url="sqlite://")

    assert done.status in (1, 2)
    assert fault in done.err


def test_a_module_of_models_that_is_not_there_is_one_line(tmp_path: Path):
    done = migrate(tmp_path, "history", url="sqlite://")

    assert (done.status, len(done.told)) == (1, 1)
    assert "there is no module shop (database.models): run the command in the folder that has it" in done.err


def test_a_single_module_has_its_revisions_beside_it(tmp_path: Path, url: str):
    """Also where no constraint has a name: a database gives them names of its own."""
    write(
        tmp_path,
        {
            "notes.py": """
                import sqlalchemy as sa

                metadata = sa.MetaData()
                notes = sa.Table(
                    "notes",
                    metadata,
                    sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("reply_to", sa.ForeignKey("notes.id")),
                    sa.Column("text", sa.String(64), unique=True),
                    sa.CheckConstraint("reply_to > 0"),
                )
            """
        },
    )

    revision = ["revision", "-m", "notes", "--autogenerate"]
    written, migrated, checked = (
        run("migrate", *action, "--database-models", "notes", cwd=tmp_path, DATABASE_URL=at)
        for action, at in ((revision, "sqlite://"), ([], url), (["check"], url))
    )

    assert (written.status, migrated.status, checked.status) == (0, 0, 0), written.err + checked.out
    assert (tmp_path / "migrations/app_0001_notes.py").is_file()
    assert RawSql(url)("SELECT * FROM notes") == []
