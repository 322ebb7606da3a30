"""The errors that an operation may end with because of what its handler is, not of what it does."""

from __future__ import annotations

from db.capacity.limiter import none_came_free, too_many_wait
from db.errors import Conflict, DeadlinePassed, Invalid, OutcomeUnknown, PoolTimeout, Unavailable
from db.idempotency import KEY_CHARS_MAX
from handlers.json_api.preconditions import MALFORMED
from handlers.json_api.problem import ProblemHandler
from handlers.lifecycle.errors import Problem, status_of, title_of
from handlers.openapi.operation import Limits
from handlers.openapi.routed import RoutedOperation

Errors = tuple[Exception, ...]


class CommonErrors:
    """Examples of errors, with the numbers in force. Lives as long as the document is made."""

    def __init__(self, limits: Limits) -> None:
        http = limits.http
        self._limits = limits
        self.edge: Errors = (  # before a handler has seen the request, or instead of it
            Problem(400, "the request line or a header is malformed"),
            Problem(408, f"the headers did not come within {http.header_timeout_s:g} s"),
            Problem(431, f"the request line and the headers are longer than {http.header_max_bytes} bytes"),
            RuntimeError("not shown to a client"),
        )
        self._deadline = DeadlinePassed()
        self._pools: dict[str, Errors] = {
            name: (PoolTimeout(none_came_free(size, name, limits.pool_timeout_s)),)
            for name, size in limits.slots.items()
        }
        if limits.pool_max_waiting is not None:
            for name, size in limits.slots.items():
                self._pools[name] += (PoolTimeout(too_many_wait(size, name, limits.pool_max_waiting)),)
        self._write: Errors = (
            Problem(403, "pages of another origin may not write here"),
            OutcomeUnknown(),
        )
        self._not_json = Problem(400, "the body is not JSON: Expecting value (line 1, column 1)")
        self._not_typed = Problem(415, "the content type of a body here is application/json")
        self._too_large: dict[int, Problem] = {}
        self._query: Errors = (
            Problem(400, "query arguments are wrong: limit: should be greater than or equal to 1"),
        )
        self._keyed: Errors = (
            Problem(400, f"Idempotency-Key has 1 to {KEY_CHARS_MAX} printable ASCII characters"),
            Conflict("the request with this Idempotency-Key was applied, but its answer was not kept"),
            Invalid("this Idempotency-Key was used with another body or query"),
            Unavailable("the request with this Idempotency-Key is still under way"),
        )
        self._conditional: Errors = (Problem(400, MALFORMED),)

    @property
    def shared(self) -> dict[Exception, str]:
        """Errors that are the same for most operations, by the name under which the document has them once.

        Not those whose status stands for several errors.
        """
        usual = self.body_max_bytes(ProblemHandler.body_max_bytes)
        errors = (*self.edge, *self._body(usual), *self._write, self._deadline)
        return {
            error: title_of(status_of(error)).replace(" ", "")
            for error in errors
            if status_of(error) not in (400, 503)
        }

    def of(self, routed: RoutedOperation) -> Errors:
        """Every error that an operation may end with."""
        operation, handler = routed.operation, routed.handler
        body_max_bytes = self.body_max_bytes(getattr(handler, "body_max_bytes", None))
        return (
            *self.edge,
            *(self._query if operation.query is not None else ()),
            *(self._body(body_max_bytes) if operation.body is not None else ()),
            *(self._keyed if routed.takes_key else ()),
            *(self._conditional if "If-Match" in operation.headers else ()),
            *(error if isinstance(error, Exception) else error(self._limits) for error in operation.errors),
            *((*self._pools[routed.pool], self._deadline) if routed.has_session else ()),
            *(() if routed.reads else self._write),
        )

    def body_max_bytes(self, own: int | None) -> int:
        """The largest body that the server takes for a handler.

        Args:
            own: the handler's ``body_max_bytes``.
        """
        most = self._limits.http.body_max_bytes
        return most if own is None else min(own, most)

    def _body(self, body_max_bytes: int) -> Errors:
        too_large = self._too_large.setdefault(
            body_max_bytes, Problem(413, f"a body here has at most {body_max_bytes} bytes")
        )
        return self._not_json, too_large, self._not_typed
