"""Tornado's own tests, with `SessionHandler` in the place of `RequestHandler`."""
