"""Calls over the queue as zbus clients make and serve them: a message of JSON to a topic, routed back by session."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.zbus_client import Broker, MqClient, Refused
from tests.support.zbus_consumer import Consumer
from tests.support.zbus_profiles import JSON, ClientCrash, Profile, ZbusMessage, error_text


class CallFailed(Exception):
    """The service answered with an error."""

    def __init__(self, error: Any) -> None:
        super().__init__(str(error))
        self.error = error


class RpcInvoker:
    """Calls methods of a service."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._broker, self._topic = broker, topic

    def call(self, method: str, *params: Any, module: str | None = None) -> ZbusMessage:
        """Call a method, and return the reply as it came."""
        client = self._broker.client_for(self._topic)
        return client.wait(self.post(client, method, *params, module=module))

    def post(self, client: MqClient, method: str, *params: Any, module: str | None = None) -> str:
        """Send a call, and return its id."""
        profile = self._broker.profile
        request = {"method": method, "params": list(params), **_module(module, profile)}
        headers: dict[str, Any] = {"topic": self._topic, "ack": False}
        if profile.rpc_content_type is not None:
            headers["content-type"] = profile.rpc_content_type
        return client.post(profile.rpc_command, json.dumps(request, ensure_ascii=False).encode(), **headers)

    def invoke(self, method: str, *params: Any, module: str | None = None) -> Any:
        """Call a method, and return its result.

        Raises:
            Refused: the broker did not deliver the call.
            CallFailed: the service answered with an error.
            NoServer: the service's topic is not known.
        """
        return self.result(self.call(method, *params, module=module))

    def result(self, reply: ZbusMessage) -> Any:
        """Return what a reply says; see `invoke`."""
        profile = self._broker.profile
        if reply.status != 200:
            raise Refused(reply.status or 0, error_text(reply, profile))
        if profile.body == "value" and reply.headers.get("content-type", JSON) != JSON:
            raise ClientCrash(f"{profile.name} gets raw bytes for {reply.headers}")
        answer = json.loads(reply.body) if isinstance(reply.body, bytes | str) else reply.body
        if answer.get("error") is not None:
            raise CallFailed(answer["error"])
        return answer.get("result")


class RpcService:
    """Serves functions: consumes calls, and routes answers to the sessions that they came from."""

    def __init__(
        self, broker: Broker, topic: str, methods: Mapping[str, Callable[..., Any]], consumers: int | None = None
    ) -> None:
        """Start to serve, and return once the broker knows it.

        Args:
            consumers: How many connections serve the topic then; by default those of this service.
        """
        self._topic, self._methods = topic, methods
        self.consumer = Consumer(broker, topic, handler=self._serve, topic_mask=broker.profile.rpc_mask)
        """Where its calls come from."""
        self.consumer.wait_parked(consumers)

    def _serve(self, client: MqClient, message: ZbusMessage) -> None:
        request = message.body if isinstance(message.body, dict) else json.loads(message.body)
        try:
            response = {"result": self._methods[request["method"]](*request["params"]), "error": None}
        except Exception as error:
            response = {"result": None, "error": _error_value(error, client.profile)}
        client.send(_route(client, self._topic, message, response))


def _route(client: MqClient, topic: str, request: ZbusMessage, response: dict[str, Any]) -> ZbusMessage:
    """Return the message that brings an answer to the caller."""
    profile = client.profile
    if profile.rpc_omits_nulls:
        response = {name: value for name, value in response.items() if value is not None}
    return client.command(
        "route",
        json.dumps(response, ensure_ascii=False).encode(),
        recver=request.headers["sender"],
        id=request.id,
        topic=topic if profile.routes_topic else None,
        origin_status=200 if profile.routes_status else None,
        ack=False if profile.routes_ack else None,
    )


def _module(module: str | None, profile: Profile) -> dict[str, str | None]:
    """Return the module of a request, which is said in three ways when there is none."""
    if module is not None or profile.rpc_module == "null":
        return {"module": module}
    return {"module": ""} if profile.rpc_module == "empty" else {}


def _error_value(error: Exception, profile: Profile) -> Any:
    if profile.rpc_error == "object":
        return {"@type": "java.lang.IllegalStateException", "message": str(error)}
    return {} if profile.rpc_error == "nothing" else str(error)
