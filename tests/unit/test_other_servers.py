"""An address by mistake: whoever else listens there is named, in one line with the fix, and nobody waits for it."""

import asyncio

import pytest

from zbusrpc import RpcError, connect, options

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("greeting", "answer", "words"),
    [
        (b"", b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "it speaks HTTP alone, as web servers"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", b"", "it is an SSH server"),
        (b"220 mail.example.org ESMTP\r\n", b"", "it is a mail or FTP server"),
        (b"", b"-ERR unknown command\r\n", "it is a Redis server"),
        (b"", b"AMQP\x00\x00\x09\x01", "it is an AMQP broker"),
        (b"\x4a\x00\x00\x00\x0a8.0.36", b"", r"it is no broker: its answer begins with b'J\x00\x00\x00'"),
        (b"", b"\x15\x03\x03\x00\x02\x02\x28", "it speaks TLS: write tls://127.0.0.1:"),
    ],
)
async def test_whoever_is_no_broker_is_named(greeting: bytes, answer: bytes, words: str) -> None:
    """By its first bytes, at once, also where it keeps the connection open and waits for more."""
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await reader.read(4096)
        writer.write(answer)
        await asked.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(RpcError) as caught:
            await options(connect("Calc", broker=f"127.0.0.1:{port}"), timeout=60.0).add(1, 2)
    finally:
        asked.set()
        server.close()

    assert str(caught.value).startswith(f"UNAVAILABLE: cannot reach broker 127.0.0.1:{port}: ")
    assert words in str(caught.value)
