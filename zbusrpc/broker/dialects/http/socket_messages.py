"""Messages of a WebSocket as requests: each holds one, whole.

Until one of them, or the request that opened the WebSocket, has shown a token that the broker knows, they are small.

Pure.
"""

from collections.abc import Callable
from http import HTTPStatus

from zbusrpc.transport.http import HttpDecoder, HttpError, HttpRequest
from zbusrpc.transport.websocket import WebSocket


class SocketMessages:
    """Reads the messages of one WebSocket."""

    def __init__(
        self, socket: WebSocket, body_bytes_max: int, limit_of: Callable[[dict[str, str], bytes], int]
    ) -> None:
        """Read messages up to a size; `limit_of` says by the head of one how large it may be."""
        self._socket, self._limit_of = socket, limit_of
        self._body_bytes_max = body_bytes_max
        self._decoder = HttpDecoder(body_bytes_max)

    def request_of(self, message: bytes) -> HttpRequest:
        """Return the request that a message is.

        Raises:
            HttpError: it is none, or more than one.
        """
        decoder = self._decoder
        try:
            requests = list(decoder.feed(message))
            if len(requests) != 1 or decoder.is_partial:
                what = f"{len(requests)} and a part" if decoder.is_partial else str(len(requests))
                text = f"a WebSocket message holds one whole zbus message, not {what}"
                raise HttpError(HTTPStatus.BAD_REQUEST, text)
        except HttpError:
            self._begin_anew()
            raise
        (request,) = requests
        if self._socket.message_bytes_max < self._body_bytes_max:
            self._socket.message_bytes_max = max(
                self._socket.message_bytes_max, self._limit_of(request.headers, request.target)
            )
        if request.is_upgrade:  # there is nothing to upgrade to from here
            request.is_upgrade = False
            self._begin_anew()
        return request

    def _begin_anew(self) -> None:
        """Read the next message as if it were the first."""
        self._decoder.close()
        self._decoder = HttpDecoder(self._body_bytes_max)

    def close(self) -> None:
        """Forget what has come, and let go of whoever knows the limits, who holds this: the connection is gone."""
        self._decoder.close()
        self._limit_of = _allow_nothing


def _allow_nothing(headers: dict[str, str], target: bytes) -> int:
    return 0
