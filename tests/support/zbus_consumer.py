"""Producing and consuming step by step as zbus clients of the 0.8 era do, by connections of a `zbus_client.Broker`."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tests.support.waiting import WAIT_S, wait_until
from tests.support.zbus_client import Broker, MqClient, Refused
from tests.support.zbus_profiles import ClientCrash, ZbusMessage, error_text, new_id, restore

DECLARES_MAX = 20
"""A consumer that declares so often without success would do it until its stack is full."""


class Producer:
    """Sends messages of one topic to the server that is chosen by the route table."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._broker, self._topic = broker, topic

    def declare(self, **headers: Any) -> None:
        """Declare the topic, and wait until it can be produced to."""
        self._broker.declare(self._topic, **headers)
        self._broker.wait_topic(self._topic)

    def publish(self, body: Any, **headers: Any) -> ZbusMessage:
        """Send a message, and return the acknowledgement.

        Raises:
            NoServer: the topic has not been announced yet.
            Refused: the server did not take it.
        """
        return self._broker.client_for(self._topic).ask("produce", body, topic=self._topic, ack=True, **headers)


class Consumer:
    """Consumes in threads: consume; at 404 declare and consume again; at 200 handle the message, and so on."""

    def __init__(
        self,
        broker: Broker,
        topic: str,
        *,
        handler: Callable[[MqClient, ZbusMessage], None] = lambda client, message: None,
        timeouts_s: Sequence[float] = (WAIT_S,),
        connections: int | None = None,
        **control: Any,
    ) -> None:
        """Start to consume.

        Args:
            handler: Is called with each message, and the connection that it came by.
            timeouts_s: How long each consume waits for a message until it is sent again; the last one counts for all
                that follow.
            connections: By default as many as this language's client opens.
            control: Headers of both consume and declare, such as `consume_group`.
        """
        self.received: list[ZbusMessage] = []
        """The messages that were handled, in order."""
        self.crashes: list[BaseException] = []
        self.issued = 0
        """How many consumes were sent."""
        self._broker, self._topic, self._control, self._handler = broker, topic, control, handler
        self._timeouts_s = timeouts_s
        count = connections or broker.profile.connections
        self.clients = [broker.connect(server) for server in broker.servers for _ in range(count)]
        """Its connections."""
        for client in self.clients:
            threading.Thread(target=self._run, args=(client,), daemon=True).start()

    def take(self, count: int) -> list[ZbusMessage]:
        """Return the first `count` messages, once they have come."""
        wait_until(lambda: len(self.received) >= count or self.crashes, f"{count} messages, not {len(self.received)}")
        assert not self.crashes, self.crashes
        return self.received[:count]

    def bodies(self, count: int) -> list[str]:
        """Return the bodies of the first `count` messages, once they have come."""
        return [text_of(message.body) for message in self.take(count)]

    def wait_parked(self, count: int | None = None) -> None:
        """Wait until the broker has the consume of each connection, or of so many."""
        group = self._control.get("consume_group")
        expected = count or len(self.clients)

        def is_parked() -> bool:
            with suppress(Refused):
                return int(self._broker.group(self._topic, group)["consumerCount"]) == expected
            return False

        wait_until(lambda: is_parked() or self.crashes, f"{expected} consumers of {self._topic}")
        assert not self.crashes, self.crashes

    def settle(self) -> None:
        """Return when the broker has handled what these connections have sent."""
        for client in self.clients:
            client.ask("query", topic=self._topic)

    def close(self) -> None:
        """Leave."""
        for client in self.clients:
            client.close()

    def kill(self) -> None:
        """Die."""
        for client in self.clients:
            client.kill()

    def _run(self, client: MqClient) -> None:
        try:
            self._consume(client)
        except OSError:
            pass  # the connection is closed; why it closed is kept there
        except Exception as crash:
            self.crashes.append(crash)

    def _consume(self, client: MqClient) -> None:
        profile, timeouts_s, declares = client.profile, list(self._timeouts_s), 0
        if profile.declares_first:
            self._declare(client)
        consume = client.command("consume", topic=self._topic, **{**profile.consume_headers, **self._control})
        while True:
            try:
                client.send(consume)
                self.issued += 1
                reply = client.wait(consume.id, timeouts_s[0])
            except TimeoutError:
                timeouts_s = timeouts_s[1:] or timeouts_s
                consume = self._renewed(consume)
                continue
            if reply.status == 404:
                error_text(reply, profile)
                declares += 1
                if declares > DECLARES_MAX:
                    raise ClientCrash(f"{profile.name} consumes and declares without end")
                self._declare(client)
            elif reply.status == 200:
                declares = 0
                message = restore(reply, profile)
                self._handler(client, message)
                self.received.append(message)
            else:
                raise Refused(reply.status or 0, error_text(reply, profile))
            consume = self._renewed(consume)

    def _renewed(self, consume: ZbusMessage) -> ZbusMessage:
        if self._broker.profile.reuses_consume_id:
            return consume
        return replace(consume, headers={**consume.headers, "id": new_id()})

    def _declare(self, client: MqClient) -> None:
        if not client.profile.declares_twice:
            client.ask("declare", topic=self._topic, **self._control)
            return
        of_topic = {name: value for name, value in self._control.items() if name.startswith("topic_")}
        of_group = {name: value for name, value in self._control.items() if not name.startswith("topic_")}
        client.ask("declare", topic=self._topic, **of_topic)
        client.ask("declare", topic=self._topic, **{"consume_group": self._topic, **of_group})


def text_of(body: Any) -> str:
    """Return a body as text, whether the client has decoded it or not."""
    return body.decode() if isinstance(body, bytes) else str(body)
