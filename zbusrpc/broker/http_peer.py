"""An HTTP peer: carries one session over an HTTP/1.1 connection, with keep-alive and pipelining.

Requests are given to the core as they come; responses leave in the order of the requests, however the calls end.
"""

import asyncio
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from zbusrpc.broker import gateway
from zbusrpc.broker.gateway import Exchange, GatewayCall
from zbusrpc.broker.session import Session
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Kind, Message
from zbusrpc.transport.connection import OUTBOX_HIGH_BYTES, format_peername
from zbusrpc.transport.http import HttpDecoder, HttpError, HttpRequest, HttpResponse, encode_response

if TYPE_CHECKING:
    from zbusrpc.broker.server import Server

PIPELINE_MAX: Final = 256
"""Requests of one connection that may wait for their responses; more are not read."""
TICK_S: Final = 10.0
IDLE_TICKS_MAX: Final = 6
"""A connection without requests is closed after a minute."""
PARTIAL_TICKS_MAX: Final = 3
"""A request that is incomplete for half a minute is answered 408."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpPeer(asyncio.Protocol):
    """One HTTP connection."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._decoder = HttpDecoder(server.message_bytes_max)
        self._exchanges: deque[Exchange] = deque()
        self._calls: dict[int, tuple[Exchange, GatewayCall]] = {}
        self._last_id = 0
        self._idle_ticks = self._partial_ticks = 0
        self._is_ending = False
        self._is_congested = False
        self._is_reading_paused = False

    # -- the life of the transport -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=OUTBOX_HIGH_BYTES)
        name = format_peername(transport.get_extra_info("peername"))
        self._session: Session = self._server.connect(f"http@{name}", self)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            return
        self._idle_ticks = 0
        try:
            for request in self._decoder.feed(data):
                self._partial_ticks = 0
                self._take(request)
        except HttpError as error:
            response = gateway.protocol_error_response(error)
            self._exchanges.append(Exchange(keep_alive=False, response=response))
            self._is_ending = True
        self._server.flush()
        self._flush()

    def pause_writing(self) -> None:
        self._is_congested = True
        self._adjust_reading()

    def resume_writing(self) -> None:
        self._is_congested = False
        self._adjust_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._is_ending = True
        self._server.disconnect(self._session)

    # -- requests and responses --------------------------------------------------------------------------

    def _take(self, request: HttpRequest) -> None:
        """Begin the exchange of one request."""
        exchange = self._route(request)
        self._exchanges.append(exchange)
        for call in exchange.calls if exchange.response is None else []:
            if call.reply:  # a wrong element of a batch: answered already
                continue
            self._last_id += 1
            self._calls[self._last_id] = (exchange, call)
            message = Message(Kind.REQUEST, self._last_id, exchange.topic, call.body, exchange.header_bytes)
            message.timeout_ms = exchange.timeout_ms
            self._server.receive(self._session, message)

    def _route(self, request: HttpRequest) -> Exchange:
        path = gateway.path_of(request)
        if path[0] != "rpc":
            return self._refusal(request, Code.NOT_FOUND, f"no page /{path[0]}; calls go to /rpc/<service>/<method>")
        if gateway.is_cross_site(request):
            return self._refusal(request, Code.PERMISSION_DENIED, "another site's page may not call services here")
        if request.method not in {"GET", "POST"}:
            response = gateway.error_response(RpcError(Code.UNIMPLEMENTED, f"no {request.method} here: GET or POST"))
            response.status = HTTPStatus.METHOD_NOT_ALLOWED
            response.headers["Allow"] = "GET, POST"
            return Exchange(keep_alive=False, response=response)
        path = path[:-1] if len(path) > 1 and path[-1] == "" and len(path) <= 3 else path
        if request.method == "GET" and len(path) < 3:
            listing = gateway.listing_of(path, self._server.broker.services())
            return Exchange(keep_alive=request.keep_alive, response=listing)
        if len(path) < 2 or (request.method == "POST" and len(path) > 3):
            return self._refusal(request, Code.NOT_FOUND, "POST goes to /rpc/<service> or /rpc/<service>/<method>")
        return gateway.open_exchange(request, path)

    def _refusal(self, request: HttpRequest, code: Code, message: str) -> Exchange:
        return Exchange(keep_alive=request.keep_alive, response=gateway.error_response(RpcError(code, message)))

    def send(self, messages: list[Message]) -> None:
        """Take replies of the core, and write the responses that they complete."""
        for message in messages:
            exchange, call = self._calls.pop(message.id)
            exchange.finish_call(call, message)
        self._flush()

    def close(self, reason: str) -> None:
        """Answer what has not been answered with UNAVAILABLE, and close."""
        for exchange in self._exchanges:
            if exchange.response is None:
                exchange.response = gateway.error_response(RpcError(Code.UNAVAILABLE, reason))
        self._is_ending = True
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        """Write the responses whose turn has come, in one go."""
        chunks: list[bytes] = []
        keep_alive = True
        while keep_alive and self._exchanges and self._exchanges[0].response is not None:
            exchange = self._exchanges.popleft()
            keep_alive = exchange.keep_alive
            response = cast("HttpResponse", exchange.response)
            chunks.append(encode_response(response, keep_alive=keep_alive))
        if keep_alive and not self._exchanges and self._decoder.wants_continue:
            self._decoder.wants_continue = False
            chunks.append(CONTINUE)
        if chunks:
            self._transport.write(b"".join(chunks))
        if not keep_alive:
            self._is_ending = True
            self._exchanges.clear()
            self._transport.close()
        else:
            self._adjust_reading()

    def _adjust_reading(self) -> None:
        """Read only from a peer that reads, and that does not have too much unanswered."""
        is_full = self._is_congested or len(self._exchanges) >= PIPELINE_MAX
        if is_full == self._is_reading_paused or self._transport.is_closing():
            return
        self._is_reading_paused = is_full
        if is_full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _tick(self) -> None:
        """Close a connection that is idle or dribbling."""
        self._idle_ticks = 0 if self._exchanges and not self._is_congested else self._idle_ticks + 1
        self._partial_ticks = self._partial_ticks + 1 if self._decoder.is_partial else 0
        if self._partial_ticks >= PARTIAL_TICKS_MAX:
            error = HttpError(HTTPStatus.REQUEST_TIMEOUT, "the request is incomplete for too long")
            self._exchanges.append(Exchange(keep_alive=False, response=gateway.protocol_error_response(error)))
            self._flush()
        elif self._idle_ticks >= IDLE_TICKS_MAX:
            self._transport.abort() if self._is_congested else self._transport.close()
        else:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def eof_received(self) -> None:
        """Let the transport close itself: a caller that hangs up gives its calls up."""
