"""Messages of a WebSocket as requests: each holds one, whole. Pure."""

from http import HTTPStatus

from zbusrpc.transport.http import HttpDecoder, HttpError, HttpRequest


class SocketMessages:
    """Reads the messages of one WebSocket."""

    def __init__(self, body_bytes_max: int) -> None:
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
            self._decoder = HttpDecoder(self._body_bytes_max)  # each message begins anew
            raise
        (request,) = requests
        if request.is_upgrade:  # there is nothing to upgrade to from here
            request.is_upgrade = False
            self._decoder = HttpDecoder(self._body_bytes_max)
        return request
