"""The contents of messages, as far as the core looks into them: subscriptions, attempts, names and sizes.

Pure: bytes in, values out.
"""

import orjson

from zbusrpc.broker.sessions.limits import ABOUT_BYTES_MAX, SUBSCRIBE_BYTES_MAX, WINDOW_MAX
from zbusrpc.broker.sessions.session import Session
from zbusrpc.errors import ProtocolError
from zbusrpc.message import HEADER_ATTEMPT, Message, encode_headers, readable_headers
from zbusrpc.transport.native import HEADERS_BYTES_MAX, payload_size


def topic_name(name: bytes) -> str:
    """Return the name of a topic for people."""
    return name.decode(errors="replace")


def is_too_large(message: Message, session: Session) -> bool:
    """Whether `session` would close its connection because of the size of `message`; no need to ask for bodies up to
    its `body_bytes_sure`."""
    return payload_size(message) > session.message_bytes_max


def parse_subscription(message: Message) -> tuple[int, dict[str, object]]:
    """Return the window and what the consumer says of itself.

    Raises:
        ProtocolError: the topic or the body of the SUBSCRIBE cannot be used.
    """
    if len(message.body) > SUBSCRIBE_BYTES_MAX:
        raise ProtocolError(f"unusable SUBSCRIBE: {len(message.body)} bytes exceed the limit of {SUBSCRIBE_BYTES_MAX}")
    try:
        name = message.topic.decode()
        body = orjson.loads(message.body)
        window, about = body["window"], body.get("about", {})
        about = about if isinstance(about, dict) else {}
        orjson.dumps([[[[[[[[about]]]]]]]])  # deeper than can be written it would spoil every list that shows it
        size = len(orjson.dumps({key: value for key, value in about.items() if key != "interface"}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(f"unusable SUBSCRIBE: {error!r}") from None
    if not name.isprintable():
        raise ProtocolError(f"unusable SUBSCRIBE: the name {name!r} holds what cannot be seen")
    if not name or type(window) is not int or not 1 <= window <= WINDOW_MAX:
        raise ProtocolError(f"unusable SUBSCRIBE: window {window!r} is not in 1..{WINDOW_MAX} or no topic is named")
    if size > ABOUT_BYTES_MAX:
        raise ProtocolError(f"unusable SUBSCRIBE: about has {size} bytes without interface, over {ABOUT_BYTES_MAX}")
    return window, about


def note_attempt(message: Message, attempts: int) -> None:
    """Let the next instance know that it is not the first."""
    headers = readable_headers(message.header_bytes)
    headers[HEADER_ATTEMPT] = str(attempts)
    noted = encode_headers(headers)
    if len(noted) <= HEADERS_BYTES_MAX:
        message.header_bytes = noted
