"""The monitor of one broker: what a request to it gets, what its viewers are told.

Requests come here from the reception, through the same door as all others: hosts, origins and tokens were looked at.

Pure: time, timers and figures of the process come from outside, answers leave through exchanges.
"""

from collections.abc import Callable, Collection, Iterable
from functools import partial
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import orjson

from zbusrpc import envelope
from zbusrpc.broker.access.logins import Logins
from zbusrpc.broker.access.rights import Access, Operation, Rights
from zbusrpc.broker.calls.statistics import CallStatistics
from zbusrpc.broker.core.asking import Asker
from zbusrpc.broker.core.permissions import require
from zbusrpc.broker.dialects.http import gateway
from zbusrpc.broker.dialects.http.answer import Exchange
from zbusrpc.broker.dialects.http.guard import cookie_in, note_refusal
from zbusrpc.broker.dialects.zbus.hub import Hub
from zbusrpc.broker.dialects.zbus.infos import plain_address
from zbusrpc.broker.monitor import api, login, pages, paths
from zbusrpc.broker.monitor.asked import Asked
from zbusrpc.broker.monitor.live import Live, snapshot
from zbusrpc.broker.monitor.others import other_servers
from zbusrpc.broker.monitor.rates import Rates
from zbusrpc.broker.monitor.rows import GroupRow, Rows, ServerRow, ServiceRow, Table, TopicRow
from zbusrpc.broker.mq.reports import statistics_of
from zbusrpc.broker.sessions.session import Session
from zbusrpc.errors import Code, RpcError
from zbusrpc.message import Flag, Kind, Message
from zbusrpc.transport.http import HttpRequest, HttpResponse
from zbusrpc.version import __version__

_FIGURES: Final = ("sessions", "load", "memory_bytes", "in_rate", "out_rate", "call_rate", "journal_fails_because")


class Usage(NamedTuple):
    """What a process takes."""

    cpu_s: float
    """Since it began."""
    memory_bytes: int


class Monitor:
    """The monitor of one broker."""

    def __init__(self, hub: Hub, *, usage: Callable[[], Usage], logins: Logins) -> None:
        """Take the broker that is to be shown.

        Args:
            hub: Of the broker.
            usage: What its process takes.
            logins: Who is logged in.
        """
        self._hub = hub
        self.broker = hub.broker
        """What people are shown."""
        self.usage = usage
        """Returns what its process takes."""
        self._logins = logins
        self.on_logout: Callable[[Rights, Session], None] = lambda rights, by: None
        """Told of the rights of a login that was ended, and on which session."""
        self._rows = Rows(hub.broker)
        self._rates = Rates()
        self._started_ms = hub.now_ms()
        self._load: float | None = None
        self._usage_before: tuple[float, float] | None = None
        self.access: Access | None = None
        """As the server has it."""
        self.live = Live(now=hub.now, later=hub.later, measure=self._measure, head=self._head, rest=self._forget_rates)

    # -- requests ----------------------------------------------------------------------------------------

    def take(self, request: HttpRequest, exchange: Exchange, asker: Asker, log_in: Callable[[str], None]) -> bool:
        """Answer a request, now or when its command has been carried out; say whether others wait for its answer.

        Args:
            log_in: Lets a token hold for the rest of a WebSocket.
        """
        try:
            self._take(request, exchange, asker, log_in)
        except RpcError as error:
            self._refuse(exchange, asker.session.rights, error)
        return request.method == "POST"

    def _take(self, request: HttpRequest, exchange: Exchange, asker: Asker, log_in: Callable[[str], None]) -> None:
        rights = asker.session.rights
        first = paths.parts_of(request.target)[0]
        if first == "metrics":
            exchange.answer_http(self._metrics(request, rights))
            return
        if first != "api":
            exchange.answer_http(pages.page(request))
            return
        route, names = api.find(request)
        asked = Asked(request=request, rights=rights, names=names)
        if route.order is not None:
            self._carry_out(route.order(asked), exchange, asker)
        elif route.look is not None:
            value = route.look(self, asked)
            body = value if route.is_raw else {"result": value}
            exchange.answer_http(HttpResponse(status=HTTPStatus.OK, body=orjson.dumps(body)))
        elif route.path == api.LIVE:
            exchange.answer_http(HttpResponse(status=HTTPStatus.OK, body=self._watch(exchange, asker, asked)))
        else:
            self._log_in_or_out(asked, exchange, asker, log_in, is_login=route.path == api.LOGIN)

    def _log_in_or_out(
        self,
        asked: Asked,
        exchange: Exchange,
        asker: Asker,
        log_in: Callable[[str], None],
        *,
        is_login: bool,
    ) -> None:
        try:
            token, rights = login.token_in(asked, self.access) if is_login else ("", login.nobody(self.access))
        except RpcError as error:
            note_refusal(asker.session, error.message, asked.request.headers)
            raise
        if not exchange.is_ordered:  # a WebSocket holds its token for as long as it is open
            log_in(token)
            self.live.leave(asker)  # what it may see was that of another token
            exchange.answer_http(login.answer(rights, self.access))
            return
        ended = self._logins.end(cookie_in(asked.request.headers.get("cookie", ""), self._logins.cookie))
        if ended is not None:
            self.on_logout(ended, asker.session)
        id_ = self._logins.begin(rights) if rights is not None and rights.digest else ""
        is_secure = self._hub.is_tls or asked.request.headers.get("origin", "").startswith("https:")
        set_cookie = login.cookie(self._logins.cookie, id_, is_secure=is_secure)
        exchange.answer_http(login.answer(rights, self.access, set_cookie))

    def _watch(self, exchange: Exchange, asker: Asker, asked: Asked) -> bytes:
        asked.require(Operation.QUERY)
        if exchange.is_ordered:  # HTTP: there is nothing to be pushed to
            found = snapshot(self._head(asked.rights), self.table(), asked.rights)
        else:
            found = self.live.watch(asker)
        return envelope.result_body(found)

    def _carry_out(self, command: dict[str, Any], exchange: Exchange, asker: Asker) -> None:
        try:
            body = orjson.dumps(command)
        except orjson.JSONEncodeError as error:  # a number of more than 64 bits, or a hundred levels
            raise RpcError(Code.INVALID_ARGUMENT, f"this cannot be a command: {error}") from None
        message = Message(Kind.COMMAND, 0, b"", body)
        asker.ask(message, partial(self._answer, exchange, asker.session.rights))

    def _answer(self, exchange: Exchange, rights: Rights | None, reply: Message) -> None:
        if reply.flags & Flag.ERROR:
            self._refuse(exchange, rights, envelope.error_of(reply))
        else:
            exchange.answer_http(HttpResponse(status=HTTPStatus.OK, body=bytes(reply.body)))

    def _refuse(self, exchange: Exchange, rights: Rights | None, error: RpcError) -> None:
        """Answer with an error; whoever has shown no token hears that one is needed."""
        if error.code is Code.PERMISSION_DENIED and rights is not None and not rights.digest:
            error = RpcError(Code.UNAUTHENTICATED, f"{error.message}; log in with a token", error.details)
        answer = gateway.error_response(error)
        if error.code is Code.UNIMPLEMENTED:
            answer.status = HTTPStatus.METHOD_NOT_ALLOWED
        exchange.answer_http(answer)

    def _metrics(self, request: HttpRequest, rights: Rights | None) -> HttpResponse:
        from zbusrpc.broker.monitor.metrics import response

        if rights is not None:
            require(rights, Operation.SERVER)
        return response(self, rights, request.headers.get("accept", ""))

    # -- what there is -----------------------------------------------------------------------------------

    def table(self) -> Table:
        """Return all rows as of now; rates are those of the last tick, where somebody watches."""
        return self._rows.table(self._hub.now(), self._rates.last)

    def topic(self, name: str) -> tuple[TopicRow, list[GroupRow]] | None:
        """Return the row of one topic and those of its groups, or None where there is none."""
        return self._rows.topic(name, self._rates.last)

    def topic_names(self) -> Iterable[str]:
        """Return the names of topics."""
        return self._rows.topic_names()

    def service(self, name: str) -> ServiceRow | None:
        """Return the row of one service, or None where there is none."""
        return self._rows.service(name, self._hub.now(), self._rates.last)

    def service_names(self) -> Iterable[str]:
        """Return the names of services."""
        return self._rows.service_names()

    def server(self, rights: Rights | None) -> dict[str, Any]:
        """Return the row of this broker with counters, and what whoever asks may do.

        Raises:
            RpcError: PERMISSION_DENIED: who shows no token, and may see nothing without one.
        """
        may_know = rights is None or rights.allows(Operation.SERVER)
        if rights is not None and not rights.digest and not may_know:
            require(rights, Operation.QUERY)
        row = self.own_row()
        statistics = self.statistics() if may_know else {}
        return {
            **(row if may_know else _without_figures(row)),
            "rights": login.rights_row(rights, self.access),
            "statistics": statistics,
        }

    def servers(self, rights: Rights | None) -> list[ServerRow]:
        """Return the rows of all brokers that this one knows of, its own first; figures for whoever may see them.

        Raises:
            RpcError: PERMISSION_DENIED.
        """
        if rights is not None and not rights.allows(Operation.SERVER):
            require(rights, Operation.QUERY)
            return [_without_figures(row) for row in self._all_servers()]
        return self._all_servers()

    def origins(self) -> Collection[str]:
        """Return the origins of the pages of all brokers of the set: they may use this one."""
        servers = self._hub.tracker.registry.servers
        return [f"http{'s' if is_tls else ''}://{address}" for address, is_tls in map(plain_address, servers)]

    def statistics(self) -> dict[str, int]:
        """Return counters of this broker."""
        queues = self._hub.broker.queues
        stored = statistics_of(queues.store.topics.values()) if queues is not None else {}
        return {**self._hub.broker.statistics(), **{f"mq_{name}": count for name, count in stored.items()}}

    def hint(self, name: str, names: Iterable[str]) -> str:
        """Return which name somebody may have meant, for the end of a line."""
        return self._hub.calls.topics.hints.did_you_mean(name, names, self._hub.now())

    def own_row(self) -> ServerRow:
        """Return the row of this broker."""
        return self._own_row(self._rates.last)

    def call_statistics(self, service: str) -> CallStatistics | None:
        """Return what was counted of a service."""
        topic = self._hub.calls.topics.get(service.encode())
        return topic.statistics if topic is not None else None

    def now_ms(self) -> int:
        """Return the time."""
        return self._hub.now_ms()

    def interface(self, service: str) -> Any:
        """Return what the instances of a service say of its methods; None for one that says nothing."""
        topic = self._hub.calls.topics.get(service.encode())
        told = [consumer.interface for consumer in topic.consumers.values()] if topic is not None else []
        return next((orjson.Fragment(one) for one in reversed(told) if one is not None), None)

    def _all_servers(self) -> list[ServerRow]:
        return [self.own_row(), *other_servers(self._hub.tracker, self._hub.now_ms())]

    def _own_row(self, rate: Any) -> ServerRow:
        hub, broker = self._hub, self._hub.broker
        store = broker.queues.store if broker.queues is not None else None
        topics = store.topics.values() if store is not None else []
        groups = [group for topic in topics for group in topic.groups.values()]
        serving = sum(len(topic.consumers) for topic in broker.calls.topics.values())
        return {
            "address": hub.address,
            "url": f"http{'s' if hub.is_tls else ''}://{hub.address}/",
            "version": __version__,
            "started_ms": self._started_ms,
            "uptime_s": round((hub.now_ms() - self._started_ms) / 1000, 1),
            "state": "draining" if broker.calls.is_draining else "live",
            "is_self": True,
            "is_tracker_only": hub.tracker.own.is_tracker_only,
            "trackers": [plain_address(one)[0] for one in hub.tracker.own.trackers],
            "seen_by": [hub.address],
            "topics": len(topics),
            "services": len(broker.calls.topics),
            "consumers": serving + sum(len(group.pool.members) for group in groups),
            "sessions": broker.session_count,
            "load": self._load,
            "memory_bytes": self.usage().memory_bytes,
            "in_rate": rate("produced", sum(topic.produced for topic in topics)),
            "out_rate": rate("delivered", sum(group.counters.delivered for group in groups)),
            "call_rate": rate("requests", broker.calls.counters.requests),
            "journal_fails_because": store.journal.fails_because if store is not None else None,
        }

    # -- ticks -------------------------------------------------------------------------------------------

    def _measure(self, now: float) -> Table:
        self._rates.begin(now)
        self._measure_load(now)
        self._own_row(self._rates.measure)
        return self._rows.table(now, self._rates.measure)

    def _measure_load(self, now: float) -> None:
        cpu_s = self.usage().cpu_s
        if self._usage_before is not None and now > self._usage_before[0]:
            at, before_s = self._usage_before
            self._load = round(min(1.0, (cpu_s - before_s) / (now - at)), 3)
        self._usage_before = now, cpu_s

    def _forget_rates(self) -> None:
        self._rates.forget()
        self._load = self._usage_before = None

    def _head(self, rights: Rights | None) -> dict[str, Any]:
        return {"at_ms": self._hub.now_ms(), "server": self.server(rights), "servers": self.servers(rights)}


def _without_figures(row: ServerRow) -> ServerRow:
    """Return the row of a broker for whoever may not see what it tells of itself."""
    hidden: Any = dict.fromkeys(_FIGURES)
    return {**row, **hidden}
