"""moto's server, answering one request at a time: `python -P moto_server.py HOST PORT`.

moto looks whether a key exists and writes it in two steps without a lock, so of two `If-None-Match: *` at once both
may win, which no real store does. Bodies are still received side by side, so that a slow client holds up nobody.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.exceptions import ClientDisconnected
from werkzeug.serving import run_simple
from werkzeug.wsgi import get_input_stream

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class OneAtATime:
    """moto's application behind a lock that is taken when a request has arrived whole."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._turn = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            environ["wsgi.input"] = io.BytesIO(get_input_stream(environ).read())
        except ClientDisconnected as error:
            return error(environ, start_response)
        with self._turn:
            answer: Iterable[bytes] = self._moto(environ, start_response)
            return answer


if __name__ == "__main__":
    host, port = sys.argv[1:]
    run_simple(host, int(port), OneAtATime(), threaded=True, request_handler=MotoRequestHandler)
