"""A service follows its brokers as clients do: those that refuse its token for a while, take another name, or die."""

import pytest

from tests.support.broker_set import serving_at
from tests.support.inprocess import running_broker
from tests.support.lab import Lab
from tests.support.waiting import eventually
from zbusrpc import connect
from zbusrpc.broker.access.rights import ALL, Access, Operation, Rights, Rule, digest_of
from zbusrpc.broker.assembly.server import Server
from zbusrpc.cluster import endpoint as endpoint_module
from zbusrpc.errors import LinkError, TokenRefusedError
from zbusrpc.service import worker as worker_module
from zbusrpc.transport.address import parse_addresses
from zbusrpc.transport.hello import Hello

pytestmark = pytest.mark.anyio

SERVICE = Hello(name="Lab", token="secret")


def knowing(secret: str) -> Access:
    """Return the rights of a broker that knows one token, which may do everything."""
    rule = Rule(operations=frozenset(Operation), topics=(ALL,), groups=(ALL,))
    return Access([Rights("service", [rule], digest_of(secret))])


def serves(server: Server) -> bool:
    """Say whether a broker has an instance of the service."""
    return server.broker.runs("Lab")


async def test_broker_that_refused_the_token_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as another one knows it: the first may read its tokens again."""
    monkeypatch.setattr(worker_module, "PROBE_S", 0.02)
    monkeypatch.setattr(endpoint_module, "RENEW_S", 0.05)
    async with (
        running_broker() as one,
        running_broker(access=knowing("other")) as two,
        serving_at(f"{two.broker.name};{one.broker.name}", hello=SERVICE) as worker,
    ):
        assert (serves(one), serves(two)) == (True, False)

        two.replace_access(knowing("secret"))
        await eventually(lambda: serves(two), "it is served there, too")
        assert not worker.refused.done()


async def test_service_ends_when_no_broker_knows_its_token() -> None:
    """At the start, and later."""
    async with running_broker(access=knowing("secret")) as server:
        async with serving_at(server.broker.name, hello=SERVICE) as worker:
            assert not worker.refused.done()
            server.replace_access(knowing("another"))
            await eventually(worker.refused.done, "it is refused")
            assert isinstance(worker.refused.result(), TokenRefusedError)
        with pytest.raises(TokenRefusedError):
            async with serving_at(server.broker.name, hello=SERVICE):
                pass


async def test_broker_that_comes_back_under_another_name_is_served_under_that_one() -> None:
    """And is not listed under the old one."""
    async with running_broker() as first:
        port = parse_addresses(first.broker.name)[0].port
        async with serving_at(first.broker.name) as worker:
            assert worker._fleet is not None
            await first.close()
            async with running_broker(port=port, advertise=f"localhost:{port}") as second:
                await eventually(lambda: serves(second), "the service is back")
                assert await connect(Lab, broker=f"127.0.0.1:{port}").add(1, 2) == 3
                await eventually(lambda: [*worker._fleet.topology.brokers] == [f"localhost:{port}"], "one name")
                assert [attachment.endpoint.address for attachment in worker._attachments.values()] == [
                    f"localhost:{port}"
                ]


async def test_broker_named_by_two_addresses_gives_each_request_once() -> None:
    """By one link; by the other one when the first is cut."""
    async with running_broker() as server:
        port = parse_addresses(server.broker.name)[0].port
        async with serving_at(f"127.0.0.1:{port};localhost:{port}") as worker:
            served = [attachment for attachment in worker._attachments.values() if attachment.is_subscribed]
            assert len(served) == len(server.broker.calls.topics[b"Lab"].consumers) == 1

            connection = served[0].endpoint.connection
            assert connection is not None
            connection.fail(LinkError("cut"))
            await eventually(
                lambda: any(attachment.is_subscribed for attachment in worker._attachments.values()),
                "it is served again",
            )
            assert await connect(Lab, broker=server.broker.name).add(1, 2) == 3
            await eventually(lambda: len(server.broker.calls.topics[b"Lab"].consumers) == 1, "by one link")
