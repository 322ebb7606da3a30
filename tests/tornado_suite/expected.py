"""Tornado's own tests that fail with `SessionHandler`, and why: what a held response cannot do."""

from __future__ import annotations

from typing import NamedTuple

PINNED = "6.6.1"
"""The Tornado that the list is of."""


class Reason(NamedTuple):
    """Why tests fail, and what their tracebacks or logs show then: another failure is not an expected one."""

    why: str
    shows: str


FLUSH = Reason(
    "its handler calls flush() before the end: part of the response would leave before its COMMIT",
    "flush() before the end would send part of a response before its COMMIT",
)
DETACH = Reason(
    "its handler calls detach(): what it writes past the held response has no end at which work is settled",
    "a session handler cannot detach its connection",
)
TRANSFER_ENCODING = Reason(
    "its handler sets Transfer-Encoding: checked before COMMIT, and answered with 500",
    "a handler may not set the header Transfer-Encoding",
)
CONTENT_LENGTH = Reason(
    "its handler sets a wrong Content-Length: checked before COMMIT, and answered with 500, where Tornado "
    "closes the connection in the middle of the response, which the test expects in the log",
    "did not get expected log message",
)

EXPECTED = {
    "httpclient_test.HTTPClientCommonTestCase.test_chunked": FLUSH,
    "httpclient_test.HTTPClientCommonTestCase.test_gzip": FLUSH,
    "httpclient_test.HTTPClientCommonTestCase.test_header_callback": FLUSH,
    "httpserver_test.KeepAliveTest.test_finish_while_closed": FLUSH,
    "httpserver_test.KeepAliveTest.test_keepalive_chunked_head_no_body": FLUSH,
    "simple_httpclient_test.ChunkedWithContentLengthTest.test_chunked_with_content_length": TRANSFER_ENCODING,
    "simple_httpclient_test.MaxBodySizeUntilCloseTest.test_large_body_until_close": DETACH,
    "simple_httpclient_test.MaxBufferSizeUntilCloseTest.test_large_body_until_close": DETACH,
    "simple_httpclient_test.SimpleHTTPClientCommonTestCase.test_chunked": FLUSH,
    "simple_httpclient_test.SimpleHTTPClientCommonTestCase.test_gzip": FLUSH,
    "simple_httpclient_test.SimpleHTTPClientCommonTestCase.test_header_callback": FLUSH,
    "simple_httpclient_test.SimpleHTTPClientTestCase.test_multiple_content_length_accepted": DETACH,
    "simple_httpclient_test.SimpleHTTPClientTestCase.test_no_content_length": DETACH,
    "simple_httpclient_test.SimpleHTTPClientTestCase.test_streaming_callback_coroutine": FLUSH,
    "simple_httpclient_test.SimpleHTTPSClientTestCase.test_multiple_content_length_accepted": DETACH,
    "simple_httpclient_test.SimpleHTTPSClientTestCase.test_no_content_length": DETACH,
    "simple_httpclient_test.SimpleHTTPSClientTestCase.test_streaming_callback_coroutine": FLUSH,
    "web_test.FinalReturnTest.test_finish_method_return_future": FLUSH,
    "web_test.IncorrectContentLengthTest.test_content_length_too_high": CONTENT_LENGTH,
    "web_test.IncorrectContentLengthTest.test_content_length_too_low": CONTENT_LENGTH,
    "web_test.NonWSGIWebTests.test_empty_flush": FLUSH,
}
"""The test, without ``tornado.test.``, and why it fails. At most 30."""
