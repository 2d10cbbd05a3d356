"""A text peer: carries one session over a connection that speaks HTTP/1.1, zbus or, after an upgrade, WebSocket.

    bytes ──> request ──> /rpc/...        gateway: calls of services, as JSON
                     ├──> cmd, /produce.. dialect: commands of zbus
                     └──> upgrade         from then on each WebSocket message is a request

Requests are carried out in the order they come. Answers of HTTP leave in that order, too; those of zbus leave when
they are known (see `answer.py`).

Promises: one write for all that a turn of the loop has answered; a message that could not be handed to a live
connection goes back to its group; a peer that is slow, silent or dribbling loses its own connection and nothing else.
"""

import asyncio
from collections import deque
from http import HTTPStatus
from typing import Any, Final, cast

from zbusrpc.broker.core.asking import Asker
from zbusrpc.broker.core.turns import Place
from zbusrpc.broker.dialects.http import gateway, sse
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.http.lingering import LAST_ANSWERS_S, Lingering
from zbusrpc.broker.dialects.http.patience import Patience, Verdict
from zbusrpc.broker.dialects.http.pipeline import Pipeline
from zbusrpc.broker.dialects.http.router import Router, is_message
from zbusrpc.broker.dialects.http.socket_messages import SocketMessages
from zbusrpc.broker.dialects.http.weighed import House, Weighed
from zbusrpc.broker.dialects.zbus.session import ZbusSession
from zbusrpc.broker.sessions.memory import SMALL_BYTES
from zbusrpc.broker.sessions.session import Session
from zbusrpc.errors import Code, RpcError
from zbusrpc.transport.connection import OUTBOX_HIGH_BYTES, format_peername, keep_alive
from zbusrpc.transport.http import HttpDecoder, HttpError, HttpRequest
from zbusrpc.transport.websocket import WebSocket

PIPELINE_MAX: Final = 256
"""Requests of one connection that may wait for their answers in order; more are not read."""
TICK_S: Final = 10.0
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class TextPeer(Weighed):
    """One text connection."""

    def __init__(self, house: House, place: Place) -> None:
        super().__init__(house)
        self._place = place
        self._decoder = HttpDecoder(house.message_bytes_max, self._limit_of)
        self._socket: WebSocket | None = None
        self._exchanges: deque[Exchange] = deque()
        self._out: list[bytes] = []
        self._unsure: list[Exchange] = []
        """Those whose messages go back if what is written next meets no live connection."""
        self._patience = Patience()
        self._is_zbus = self._is_ending = self._is_reading_paused = self._is_move_due = False
        self._pipeline = Pipeline(self._take, self._takes_answers, house.hub.now)
        self._fault: HttpError | None = None
        """What was wrong after the requests in the line."""
        self._lingering: Lingering | None = None

    # -- the life of the transport -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=OUTBOX_HIGH_BYTES)
        keep_alive(transport)
        name = format_peername(transport.get_extra_info("peername"))
        self._session: Session = self._house.turns.connect(f"http@{name}", self, self._place)
        asker = Asker(self._house.turns.broker, self._session, self._push, self._house.hub.now)
        self._dialect = ZbusSession(self._house.hub, asker)
        self._router = Router(self._house, self._dialect)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def data_received(self, data: bytes) -> None:
        if self._lingering is not None:
            self._lingering.drop(len(data))
        if self._is_ending or self._fault is not None:
            return
        self._patience.note_block()
        if self._socket is not None:
            self._receive_frames(data)
        else:
            request = self._decoder.repeat(data) if self._pipeline.is_free else None
            if request is not None:
                self._take(request)
            else:
                self._receive_requests(data)
            if self._decoder.wants_continue:
                self._flush()
        if not self._pipeline.is_free:
            self._adjust_reading()
            self._weigh_waiting()
        held_bytes = self._decoder.held_bytes if self._socket is None else self._socket.held_bytes
        if held_bytes > SMALL_BYTES or self._house.input.used:
            self._house.input.hold(self, held_bytes)
        self._house.turns.flush_soon()

    def _receive_requests(self, data: bytes) -> None:
        try:
            for request in self._decoder.feed(data):
                self._patience.note_whole()
                self._pipeline.join(request)
        except HttpError as error:
            self._fault = error.with_traceback(None)  # which holds what was received
        self._move()

    def _takes_answers(self) -> bool:
        return not self._is_congested and self._unsent_bytes < OUTBOX_HIGH_BYTES and len(self._exchanges) < PIPELINE_MAX

    def _move(self) -> None:
        """Carry out what stands in the line, some of it a turn, and at its end say what was wrong."""
        self._pipeline.move()
        if self._pipeline:
            self._move_soon()
        elif self._fault is not None and not self._is_ending:
            self._end_by(self._fault)

    def _move_soon(self) -> None:
        if self._pipeline.can_move and not self._is_move_due:
            self._is_move_due = True
            self._loop.call_soon(self._move_on)

    def _move_on(self) -> None:
        self._is_move_due = False
        if not self._transport.is_closing():
            self._move()
            self._adjust_reading()
            self._weigh_waiting()
            self._house.turns.flush_soon()

    def pause_writing(self) -> None:
        self._is_congested = True
        self._weigh_waiting()
        self._adjust_reading()
        self._house.turns.set_congested(self._session, True)

    def resume_writing(self) -> None:
        self._is_congested = False
        self._weigh_waiting()
        self._adjust_reading()
        self._house.turns.set_congested(self._session, False)
        self._house.hub.catch_up(self._dialect)
        self._move_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._weigh_nothing()
        self._is_ending = True
        self._pipeline.drain(is_message)
        self._router.close()
        self._drop_exchanges()
        self._house.turns.disconnect(self._session)
        self._pipeline.end()  # memory must not wait for the collector: nothing keeps what refers to this peer
        self._decoder.close()
        if self._socket is not None:
            self._socket.end()
            self._messages.close()
        self._out, self._unsure = [], []

    # -- requests ----------------------------------------------------------------------------------------

    def _open(self, *, is_ordered: bool, keep_alive: bool = True) -> Exchange:
        exchange = Exchange(self._answered, is_ordered=is_ordered, keep_alive=keep_alive)
        if is_ordered:
            exchange.is_first = not self._exchanges
            self._exchanges.append(exchange)
        return exchange

    def _take(self, request: HttpRequest) -> None:
        """Carry out one request."""
        is_zbus = "cmd" in request.headers and not request.is_upgrade
        self._is_zbus |= is_zbus
        # whoever says that this is the last request is no zbus client, and waits for the answer and the end
        is_ordered = self._socket is None and not (is_zbus and request.keep_alive)
        exchange = self._open(is_ordered=is_ordered, keep_alive=request.keep_alive and not request.is_upgrade)
        exchange.takes_chunks = request.takes_chunks
        if self._router.take(request, exchange):
            self._pipeline.wait_for(exchange)
        if request.is_upgrade:  # answered when all requests before it are
            self._upgrade(request)

    # -- WebSocket ---------------------------------------------------------------------------------------

    def _upgrade(self, request: HttpRequest) -> None:
        """Go on with WebSocket, which is the last request of HTTP here; refuse to where something else is wanted."""
        exchange = self._exchanges[-1]
        self._is_ending = True
        if exchange.data is not None:
            return
        if len(self._exchanges) > 1:
            exchange.answer_text(HTTPStatus.BAD_REQUEST, "a WebSocket cannot be opened while requests wait for answers")
            return
        web_socket = WebSocket(self._limit_of(request.headers, request.target))
        try:
            web_socket.open(request.target, request.method, request.headers)
        except HttpError as error:
            exchange.answer_http(gateway.protocol_error_response(error))
            return
        self._exchanges.clear()
        self._is_ending = False
        self._socket = web_socket
        self._messages = SocketMessages(web_socket, self._house.message_bytes_max, self._limit_of)
        rest = self._decoder.after_upgrade
        self._decoder.close()
        self._receive_frames(rest)

    def _receive_frames(self, data: bytes) -> None:
        assert self._socket is not None
        for message in self._socket.feed(data):
            self._patience.note_whole()
            self._take_message(message)
        self._move()
        self._flush()  # pongs and the like

    def _take_message(self, data: bytes) -> None:
        """Let the request that a WebSocket message is join the line."""
        try:
            self._pipeline.join(self._messages.request_of(data))
        except HttpError as error:
            self._open(is_ordered=False).answer_text(error.status, str(error))

    # -- answers -----------------------------------------------------------------------------------------

    def _answered(self, exchange: Exchange) -> None:
        """Have an answer written at the end of this turn."""
        if not exchange.is_stream:
            self._weigh_answer(exchange.data)
        if self._pipeline.note_answer(exchange):
            self._move_soon()
        self._house.turns.broker.send(self._session, exchange)

    def _push(self, data: bytes) -> None:
        """Have a message written that answers nothing."""
        exchange = Exchange(self._answered)
        exchange.data = data
        self._answered(exchange)

    def send(self, messages: list[Any]) -> None:
        """Take messages of the core and answered exchanges, and write what they make."""
        if len(messages) == 1 and self._is_all(messages[0]):
            self._write_only(self._exchanges.popleft())
            return
        for item in messages:
            if type(item) is Exchange:
                if not item.is_ordered:
                    self._put_out(item)
            else:
                self._router.receive(item)
        self._flush()

    def _write_only(self, exchange: Exchange) -> None:
        """Write an answer beside which there is nothing to write."""
        transport, data = self._transport, cast("bytes", exchange.data)
        self._unsent_bytes -= len(data)
        if not transport.is_closing():
            transport.write(data)
        if transport.is_closing():
            self._lose(exchange)

    def _is_all(self, item: Any) -> bool:
        """Whether an item is the answer to the only request that waits, and nothing else is to be looked at."""
        return (
            type(item) is Exchange
            and len(self._exchanges) == 1
            and item is self._exchanges[0]
            and item.keep_alive
            and not item.is_stream
            and not self._is_reading_paused
            and not self._pipeline
            and not self._decoder.wants_continue
        )

    def _put_out(self, exchange: Exchange) -> None:
        data, exchange.data = exchange.data, exchange.data if not exchange.is_stream else None
        if data is None:
            return
        if not exchange.is_stream:
            self._unsent_bytes -= len(data)
        if self._socket is not None and self._socket.is_closing:  # which sends nothing any more
            self._lose(exchange)
            return
        if exchange.on_lost is not None:
            self._unsure.append(exchange)
        if self._socket is None:
            self._out.append(data)
        else:
            self._socket.send(data)

    def _flush(self) -> None:
        """Write what is known and has its turn, in one go."""
        keep_alive = True
        exchanges = self._exchanges
        while keep_alive and exchanges and exchanges[0].data is not None:
            exchange = exchanges[0]
            self._put_out(exchange)
            if exchange.is_stream:
                break
            exchanges.popleft()
            self._patience.note_whole()
            keep_alive = exchange.keep_alive
        if keep_alive and not exchanges and self._decoder.wants_continue:
            self._decoder.wants_continue = False
            self._out.append(CONTINUE)
        if self._socket is not None:
            if self._socket.is_closing:
                self._pipeline.drain(is_message)
            self._out.append(self._socket.data_to_send())
            keep_alive = not self._socket.is_closing
        self._write()
        if not keep_alive:
            self._end()
        else:
            self._move_soon()
            self._adjust_reading()

    def _end(self) -> None:
        """Close the connection after what was written; again does nothing."""
        self._is_ending = True
        self._drop_exchanges()
        is_zbus = self._is_zbus and self._socket is None
        may_send = is_zbus or self._fault is not None if self._socket is None else not self._socket.has_peer_closed
        if not may_send:
            self._loop.call_soon(self._transport.close)
        elif self._lingering is None:
            self._decoder.close()  # which has parts of a body that nobody will read
            self._lingering = Lingering(self._transport, LAST_ANSWERS_S if is_zbus else 0.0)
            self._adjust_reading()

    def _write(self) -> None:
        out, self._out = b"".join(self._out), []
        unsure, self._unsure = self._unsure, []
        if out and self._can_write():
            self._transport.write(out)
        if not self._can_write():
            for exchange in unsure:
                self._lose(exchange)
        if self._is_congested:
            self._weigh_waiting()

    def _can_write(self) -> bool:
        return not self._transport.is_closing() and (self._lingering is None or not self._lingering.is_mute)

    def close(self, reason: str) -> None:
        """Answer what has not been answered with the reason, and close."""
        code = Code.UNAUTHENTICATED if reason.startswith(Code.UNAUTHENTICATED) else Code.UNAVAILABLE
        for exchange in list(self._exchanges):
            exchange.cut_short(gateway.error_response(RpcError(code, reason)))
        if self._socket is not None:
            self._socket.close(1001, reason)
        self._is_ending = True
        self._flush()
        self._dialect.withdraw()
        self._transport.close()

    def _drop_exchanges(self) -> None:
        """Forget the requests whose answers will not be written; messages among them go to others."""
        for exchange in [one for one in self._exchanges if one.data is not None]:
            self._lose(exchange)
        self._exchanges.clear()

    # -- bounds ------------------------------------------------------------------------------------------

    def _adjust_reading(self) -> None:
        """Read only from a peer that reads, and that does not have too much unanswered."""
        is_full = self._lingering is None and (self._is_held_back or not self._pipeline.is_free)
        if is_full == self._is_reading_paused or self._transport.is_closing():
            return
        self._is_reading_paused = is_full
        if is_full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _tick(self) -> None:
        """Close a connection that is idle or dribbling, and show one that waits that it is alive."""
        is_waited_for = self._is_congested or self._is_held_back or self._pipeline.awaits_step
        is_stuck = self._is_reading_paused and not is_waited_for  # else it is not seen that the peer has gone
        is_partial = (self._decoder.is_partial or is_stuck) if self._socket is None else self._socket.is_partial
        is_waiting = (self._exchanges or self._router.is_waiting) and not self._is_congested
        verdict = self._patience.tick(
            is_partial=is_partial and not self._is_held_back,
            is_waiting=self._is_held_back or (bool(is_waiting) and self._socket is None),
            is_zbus=self._is_zbus,
        )
        if verdict is Verdict.END_PARTIAL:
            self._end_partial()
        elif verdict is Verdict.END_IDLE:
            self._transport.abort() if self._is_congested else self._transport.close()
        else:
            if verdict is Verdict.SHOW_LIFE:
                self._show_life()
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _end_partial(self) -> None:
        if self._socket is not None:
            self._socket.close(1002, "a message is incomplete for too long")
        elif self._exchanges:  # what is to be said would have to wait for their answers
            self._transport.abort()
            return
        else:
            self._end_by(HttpError(HTTPStatus.REQUEST_TIMEOUT, "the request is incomplete for too long"))
        self._flush()

    def _end_by(self, error: HttpError) -> None:
        """Answer what breaks the rules, in the form of whoever does; it is the last that is taken."""
        exchange = self._open(is_ordered=True, keep_alive=False)
        if self._is_zbus or self._decoder.has_begun_with("cmd"):
            exchange.answer_text(error.status, str(error))
        else:
            exchange.answer_http(gateway.protocol_error_response(error))
        self._fault, self._is_ending = error, True

    def _show_life(self) -> None:
        if self._socket is not None:
            self._socket.ping()
        elif self._exchanges and self._exchanges[0].is_stream:
            self._exchanges[0].stream(sse.KEEP_ALIVE)
        self._flush()
