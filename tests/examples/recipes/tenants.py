"""Tenants of one database: PostgreSQL's row security shows each its own rows."""

from sqlalchemy import select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tornado.web import Application, HTTPError

from db import Database
from handlers import ApiHandler


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(server_default=text("current_setting('app.tenant')"))
    text: Mapped[str]


SECURITY = (  # for the revision that makes the table: op.execute() of each
    "ALTER TABLE invoices ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY own_rows ON invoices USING (tenant = current_setting('app.tenant', true))",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON invoices, commit_witness, idempotency_keys TO web",
    "GRANT USAGE ON SEQUENCE invoices_id_seq TO web",
)


def enter_tenant(session: Session, *, tenant: str) -> None:
    """As SET LOCAL, which takes no parameter: it ends with the transaction."""
    session.execute(text("SELECT set_config('app.tenant', :tenant, true)"), {"tenant": tenant})


def list_invoices(session: Session) -> list[str]:
    return list(session.scalars(select(Invoice.text).order_by(Invoice.id)))


class TenantHandler(ApiHandler):
    snapshot = True  # a GET is a transaction then, and `enter_tenant` holds for all of it

    async def prepare(self) -> None:
        await super().prepare()
        if (tenant := self.get_signed_cookie("tenant")) is None:
            raise HTTPError(401)
        await self.run(enter_tenant, self.session, tenant=tenant.decode())


class InvoicesHandler(TenantHandler):
    async def get(self) -> None:
        self.write_json(await self.run(list_invoices, self.session))

    async def post(self) -> None:
        self.session.add(Invoice(text=self.get_body_argument("text")))


def make_app(database: Database, cookie_secret: str) -> Application:
    return Application([("/invoices", InvoicesHandler)], database=database, cookie_secret=cookie_secret)
