"""Orders, before: Flask, and `db.session` of Flask-SQLAlchemy, which the view commits."""

from flask import Flask, request
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


class Order(db.Model):  # type: ignore[name-defined, misc]  # made at run time
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


def list_orders() -> list[Order]:
    return list(db.session.scalars(db.select(Order).order_by(Order.id)))


def create_order(*, text: str) -> Order:
    db.session.add(order := Order(text=text))
    db.session.flush()
    return order


def is_sold(text: str) -> bool:
    return "unicorn" not in text


def get_orders() -> ResponseReturnValue:
    return [{"id": order.id, "text": order.text} for order in list_orders()]


def post_order() -> ResponseReturnValue:
    text = request.get_json()["text"]
    order = create_order(text=text)
    if not is_sold(text):
        return {"detail": "that is not sold"}, 409
    db.session.commit()
    return {"id": order.id, "text": order.text}, 201


def make_app(url: str) -> Flask:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db.init_app(app)
    app.add_url_rule("/orders", view_func=get_orders)
    app.add_url_rule("/orders", view_func=post_order, methods=["POST"])
    with app.app_context():
        db.create_all()
    return app
