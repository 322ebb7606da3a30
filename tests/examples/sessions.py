"""Players and the squads that they move between: what a session is used for, with no HTTP in it."""

from collections.abc import Iterable

from sqlalchemy import ForeignKey, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from conf import DatabaseSettings
from db import Database
from db.errors import Conflict, NotFound


class Base(DeclarativeBase):
    pass


class Squad(Base):
    __tablename__ = "squads"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class Player(Base):
    __tablename__ = "players"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    squad_id: Mapped[int | None] = mapped_column(ForeignKey("squads.id"))


class Move(Base):
    __tablename__ = "moves"
    id: Mapped[int] = mapped_column(primary_key=True)
    player_id: Mapped[int] = mapped_column(ForeignKey("players.id"))
    from_squad_id: Mapped[int | None]
    to_squad_id: Mapped[int | None]


def open_database() -> Database:
    return Database(DatabaseSettings(url="sqlite:///players.db"))


def create_player(session: Session, *, name: str) -> Player:
    session.add(player := Player(name=name))
    session.flush()  # now it has its id, and what else the database makes
    return player


def list_names(session: Session) -> list[str]:
    return list(session.scalars(select(Player.name).order_by(Player.name)))


def move_player(
    session: Session, *, player_id: int, from_squad_id: int | None, to_squad_id: int | None
) -> None:
    player = session.get(Player, player_id, with_for_update=True)
    if player is None:
        raise NotFound("player", player_id)
    if player.squad_id != from_squad_id:
        raise Conflict("the player is not in that squad")
    player.squad_id = to_squad_id
    session.add(Move(player_id=player_id, from_squad_id=from_squad_id, to_squad_id=to_squad_id))


def import_players(database: Database, names: Iterable[str]) -> None:
    with database.session_scope(label="import") as session:
        for name in names:
            create_player(session, name=name)


def import_in_parts(database: Database, parts: Iterable[list[str]]) -> None:
    for names in parts:
        with database.session_scope(label="import") as session:
            session.add_all(Player(name=name) for name in names)


def count_by_squad(session: Session, *, least: int) -> list[tuple[str, int]]:
    counted = text(
        "SELECT squads.name, count(*) FROM squads JOIN players ON squad_id = squads.id"
        " GROUP BY squads.name HAVING count(*) >= :least ORDER BY squads.name"
    )
    return [(name, count) for name, count in session.execute(counted, {"least": least})]


async def welcome(database: Database, *, name: str) -> int:
    async with database.unit_of_work(label="welcome") as unit:
        player = await unit.run(create_player, unit.session, name=name)
    return player.id
