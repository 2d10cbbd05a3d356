"""The port, encrypted and guarded: TLS, certificates that are not good enough, bytes of the wrong kind, the limit."""

import signal
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from tests.support.inprocess import http_call, running_broker
from tests.support.native import dial, read_to_end, statistics
from tests.support.processes import LAB, Process, Processes, port_of
from tests.support.waiting import WAIT_S, eventually, wait_until
from zbusrpc import RpcError, connect
from zbusrpc.broker.assembly.server import Server
from zbusrpc.broker.listeners import arrival, tls_listener
from zbusrpc.broker.sessions.limits import Limits
from zbusrpc.cluster.fleets import close_fleets
from zbusrpc.config import ClientSecurity
from zbusrpc.errors import Code, ConfigError
from zbusrpc.transport.address import parse_addresses
from zbusrpc.transport.tls import client_context, renew_certificate, server_context

LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Certificates:
    """A CA, another that nobody trusts, and where their certificates are."""

    directory: Path
    ca: trustme.CA
    stranger: trustme.CA

    @property
    def ca_file(self) -> str:
        return self.file("ca.pem", self.ca.cert_pem)

    def file(self, name: str, blob: trustme.Blob) -> str:
        """Write a file, and return its name."""
        path = self.directory / name
        blob.write_to_path(str(path))
        return str(path)

    def issue(self, *names: str, by: trustme.CA | None = None, not_after: datetime | None = None) -> str:
        """Return a file with a certificate for `names` and its key."""
        made = (by or self.ca).issue_cert(*(names or LOOPBACK), not_after=not_after)
        number = len(list(self.directory.iterdir()))
        return self.file(f"{number}.pem", made.private_key_and_cert_chain_pem)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make the CAs once."""
    return Certificates(tmp_path_factory.mktemp("certificates"), trustme.CA(), trustme.CA())


@pytest.fixture(scope="module")
def encrypted(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, str]]:
    """Run a broker that speaks TLS, for all tests that do not harm it; yield it with its address."""
    with Processes(tmp_path_factory.mktemp("encrypted")) as processes:
        data = str(processes.directory / "data")
        yield processes.broker("--tls-cert", certificates.issue(), "--data-dir", data, "--log-level", "debug")


def failure(processes: Processes, address: str, **env: str) -> str:
    """Return the one line with which a command that asks a broker ends."""
    code, output, errors = processes.run("call", "Lab.add", "1", "2", ZBUSRPC_BROKER=address, **env)
    assert (code, output, errors.count("\n")) == (1, "", 1), errors
    return errors.removeprefix("zbusrpc: ").rstrip()


# -- TLS -----------------------------------------------------------------------------------------------------


def test_everything_goes_over_tls(
    encrypted: tuple[Process, str], certificates: Certificates, processes: Processes
) -> None:
    """Services, callers, producers and consumers use a broker at tls://, and so does HTTP."""
    _, address = encrypted
    env = {"ZBUSRPC_BROKER": address, "ZBUSRPC_TLS_CA": certificates.ca_file}
    processes.serve(address, ZBUSRPC_TLS_CA=certificates.ca_file)

    assert address.startswith("tls://127.0.0.1:")
    assert processes.run("call", "Lab.add", "1", "2", **env)[:2] == (0, "3\n")
    assert processes.run("call", "Lab.add", "1", "2", "--broker", address, "--tls-ca", certificates.ca_file)[0] == 0
    assert processes.run("pub", "t", "x" * 100_000, **env)[0] == 0
    assert processes.run("sub", "t", "--group", "g", "--count", "1", **env)[1].count("x") >= 100_000
    assert https(address, certificates, b"GET /rpc/Lab/add/1/2 HTTP/1.1\r\nConnection: close\r\n\r\n").endswith(b"3}")


def test_setting_encrypts_addresses_without_scheme(
    encrypted: tuple[Process, str], certificates: Certificates, processes: Processes
) -> None:
    """With ZBUSRPC_TLS or --tls, `host:port` means TLS."""
    address = encrypted[1].removeprefix("tls://")
    env = {"ZBUSRPC_TLS_CA": certificates.ca_file, "ZBUSRPC_BROKER": address}

    assert processes.run("topics", ZBUSRPC_TLS="1", **env)[0] == 0
    assert processes.run("topics", "--tls", **env)[0] == 0


def https(address: str, certificates: Certificates, request: bytes) -> bytes:
    """Send an HTTP request, and return what comes until the end."""
    context = ssl.create_default_context(cafile=certificates.ca_file)
    with dial(address) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        connection.sendall(request)
        data = b""
        while block := connection.recv(65536):
            data += block
    return data


# -- certificates that are not good enough -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("strange", "its certificate is not signed by a trusted CA; name its CA with --tls-ca FILE (ZBUSRPC_TLS_CA)"),
        ("expired", "its certificate has expired"),
        ("misnamed", "its certificate is for another"),
    ],
)
def test_certificate_that_cannot_be_trusted_is_one_line(
    certificates: Certificates, processes: Processes, made: str, words: str
) -> None:
    """The line names the broker and what is wrong with its certificate; a broker logs that its own has expired."""
    file = {
        "strange": lambda: certificates.issue(by=certificates.stranger),
        "expired": lambda: certificates.issue(not_after=datetime(2020, 1, 1, tzinfo=UTC)),
        "misnamed": lambda: certificates.issue("other.example", "10.9.8.7"),
    }[made]()
    broker, address = processes.broker("--tls-cert", file)

    line = failure(processes, address, ZBUSRPC_TLS_CA=certificates.ca_file)

    assert line.startswith(f"UNAVAILABLE: cannot reach broker {address}: {words}")
    assert "Traceback" not in broker.errors
    expired = [entry["expired"] for entry in broker.log("broker.certificate_expired")]
    assert expired == (["2020-01-01T00:00:00+00:00"] if made == "expired" else [])


def test_ca_of_the_system_is_the_default(encrypted: tuple[Process, str], processes: Processes) -> None:
    """Without a word about CAs those of the system count, and ours is not among them."""
    assert "name its CA with --tls-ca FILE" in failure(processes, encrypted[1])


def test_client_shows_a_certificate_where_it_is_asked_to(certificates: Certificates, processes: Processes) -> None:
    """With a CA for clients, only those come in that have a certificate of it."""
    _, address = processes.broker("--tls-cert", certificates.issue(), "--tls-client-ca", certificates.ca_file)
    known, strange = certificates.issue("me"), certificates.issue("me", by=certificates.stranger)
    ca = {"ZBUSRPC_TLS_CA": certificates.ca_file}

    processes.serve(address, "--tls-client-cert", known, **ca)

    assert processes.run("call", "Lab.add", "1", "2", "--broker", address, "--tls-client-cert", known, **ca)[0] == 0
    assert "ZBUSRPC_TLS_CLIENT_CERT" in failure(processes, address, **ca)
    assert "ZBUSRPC_TLS_CLIENT_CERT" in failure(processes, address, ZBUSRPC_TLS_CLIENT_CERT=strange, **ca)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"--tls-cert": "none.pem"}, "tls_cert = 'none.pem': no such file or directory"),
        ({"--tls-cert": "words.pem"}, "tls_cert = 'words.pem': no certificate and key in PEM, or tls_key is missing"),
        ({"--tls-cert": "ca.pem"}, "tls_cert = 'ca.pem': no certificate and key in PEM, or tls_key is missing"),
        ({"--tls-cert": "0.pem", "--tls-key": "none.pem"}, "tls_key = 'none.pem': no such file or directory"),
        ({"--tls-cert": "0.pem", "--tls-key": "1.pem"}, "tls_key = '1.pem': the key is not that of 0.pem"),
        ({"--tls-cert": "0.pem", "--tls-client-ca": "words.pem"}, "tls_client_ca = 'words.pem': no certificate in PEM"),
        ({"--tls-cert": "0.pem", "--tls-client-ca": "."}, "tls_client_ca = '.': is a directory"),
    ],
)
def test_unusable_file_of_the_broker_is_one_line(
    certificates: Certificates, processes: Processes, tmp_path: Path, given: dict[str, str], words: str
) -> None:
    """The line names setting, file and what is wrong."""
    certificates.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for number in range(2):
        made = certificates.ca.issue_cert("localhost").private_key_and_cert_chain_pem
        made.write_to_path(str(tmp_path / f"{number}.pem"))
    (tmp_path / "words.pem").write_text("no certificate")

    arguments = [word for pair in given.items() for word in pair]
    code, output, errors = processes.run("broker", "--port", "0", *arguments, cwd=tmp_path)

    assert (code, output, errors) == (1, "", f"zbusrpc: {words}\n")


@pytest.mark.parametrize(
    ("option", "words"),
    [("--tls-ca", "tls_ca = 'none.pem'"), ("--tls-client-cert", "tls_client_cert = 'none.pem'")],
)
def test_unusable_file_of_a_client_is_one_line(processes: Processes, option: str, words: str) -> None:
    """A client says which file it cannot use, before it connects."""
    code, output, errors = processes.run("topics", "--broker", "tls://127.0.0.1:1", option, "none.pem")

    assert (code, output) == (1, "")
    assert errors == f"zbusrpc: {words}: no such file or directory\n"


def test_encrypted_key_is_no_question_at_the_terminal(certificates: Certificates, tmp_path: Path) -> None:
    """A key that needs a password is refused: nobody is there to type it."""
    from cryptography.hazmat.primitives import serialization

    made = certificates.ca.issue_cert("localhost")
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
    sealed = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "key.pem").write_bytes(sealed)
    made.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))

    with pytest.raises(ConfigError, match=r"key\.pem': the key needs a password"):
        server_context(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))


def test_old_versions_of_tls_are_not_spoken(certificates: Certificates) -> None:
    """Both sides begin at TLS 1.2."""
    from pydantic import SecretStr

    nothing = ClientSecurity(token=SecretStr(""), tls=True, tls_ca=None, tls_client_cert=None, tls_client_key=None)

    contexts = [server_context(certificates.issue(), None), client_context(nothing)]

    assert all(context.minimum_version == ssl.TLSVersion.TLSv1_2 for context in contexts)
    assert contexts[1].check_hostname
    assert contexts[1].verify_mode == ssl.CERT_REQUIRED


def test_certificate_is_renewed_on_hangup(certificates: Certificates, processes: Processes, tmp_path: Path) -> None:
    """After SIGHUP new connections see the new certificate; one that cannot be used leaves the old one in place."""
    cert, other = tmp_path / "cert.pem", tmp_path / "other.pem"
    Path(certificates.issue()).rename(cert)
    Path(certificates.issue()).rename(other)
    broker, address = processes.broker("--tls-cert", str(cert))

    first = ssl.get_server_certificate(("127.0.0.1", port_of(address)))
    cert.write_text("nothing")
    broker.send_signal(signal.SIGHUP)
    wait_until(lambda: broker.log("broker.reload_failed"), "line of the log")
    still = ssl.get_server_certificate(("127.0.0.1", port_of(address)))
    other.rename(cert)
    broker.send_signal(signal.SIGHUP)
    wait_until(lambda: broker.log("broker.reloaded"), "line of the log")
    renewed = ssl.get_server_certificate(("127.0.0.1", port_of(address)))

    assert first == still
    assert first != renewed


def test_key_of_another_certificate_does_not_spoil_the_old_one(certificates: Certificates) -> None:
    """A pair that does not match is not half taken over."""
    good, other = certificates.issue(), certificates.issue()
    context = server_context(good, None)

    with pytest.raises(ConfigError, match="the key is not that of"):
        renew_certificate(context, good, other)

    client = ssl.create_default_context(cafile=certificates.ca_file)
    _shake_hands(context, client)


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Let both sides shake hands in memory."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(up, down, server_side=True)
    ours = client.wrap_bio(down, up, server_hostname="localhost")
    waiting = [ours, theirs] * 4
    for side in waiting:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue


# -- bytes of the wrong kind ---------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, b"\xff" * 4096, b"\x16\x03\x01\x02\x00" * 9])
def test_plain_bytes_on_a_port_with_tls_harm_nobody(
    encrypted: tuple[Process, str], certificates: Certificates, processes: Processes, data: bytes
) -> None:
    """The connection is closed; the log has one line that says so, and others notice nothing."""
    broker, address = encrypted
    before = len(broker.log("broker.tls_failed"))

    with dial(address) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        read_to_end(connection)

    wait_until(lambda: len(broker.log("broker.tls_failed")) == before + 1, "line of the log")
    assert all(line["level"] == "info" for line in broker.log("broker.tls_failed"))
    assert "Traceback" not in broker.errors
    env = {"ZBUSRPC_TLS_CA": certificates.ca_file, "ZBUSRPC_BROKER": address}
    assert processes.run("topics", **env)[0] == 0


def test_bytes_of_tls_on_a_plain_port_harm_nobody(processes: Processes, certificates: Certificates) -> None:
    """The connection is closed, the log has one line at level debug, and a client says what to do."""
    broker, address = processes.broker("--log-level", "debug")

    line = failure(processes, f"tls://{address}", ZBUSRPC_TLS_CA=certificates.ca_file)

    assert line.startswith(f"UNAVAILABLE: cannot reach broker tls://{address}: ")
    assert line.endswith("it may speak no TLS")
    (logged,) = broker.log("broker.unknown_framing")
    assert (logged["level"], logged["looks_like"]) == ("debug", "tls")
    assert statistics(address)["sessions"] == 1


def test_client_without_tls_is_told_to_try_it(encrypted: tuple[Process, str], processes: Processes) -> None:
    """A client that speaks no TLS to a port with TLS says how to."""
    address = encrypted[1].removeprefix("tls://")

    assert failure(processes, address).endswith(f"if it speaks TLS, write tls://{address}")


# -- web pages ------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_only_named_origins_may_use_the_broker() -> None:
    """A page whose origin was named may ask, and read the answer; another is refused before anything is done."""
    async with running_broker(allow_origins=("https://app.example.org",)) as server:
        named = await http_call(server, "POST /rpc/Lab/add", b"[1,2]", Origin="https://app.example.org")
        other = await http_call(server, "POST /rpc/Lab/add", b"[1,2]", Origin="https://evil.example")

        assert (named[0], named[1]["access-control-allow-origin"]) == (503, "https://app.example.org")
        assert other[0] == 403
        assert "access-control-allow-origin" not in other[1]
        assert server.broker.statistics()["requests"] == 1


# -- connections that never say anything, and too many of them ------------------------------------------------


@asynccontextmanager
async def encrypted_broker(certificates: Certificates, limits: Limits | None = None) -> AsyncIterator[Server]:
    """Run a broker with TLS in this process."""
    async with running_broker(tls=server_context(certificates.issue(), None), limits=limits) as server:
        yield server


@pytest.mark.anyio
async def test_silent_connections_are_closed(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that does not go on, in the handshake or after it, is closed, and its place is free again."""
    monkeypatch.setattr(tls_listener, "HELLO_TIMEOUT_S", 0.2)
    monkeypatch.setattr(arrival, "HELLO_TIMEOUT_S", 0.2)
    async with encrypted_broker(certificates) as server, running_broker() as plain:
        silent = [dial(server.broker.name), dial(plain.broker.name)]
        await eventually(lambda: server.quotas.taken and plain.quotas.taken, "places")

        await eventually(lambda: not server.quotas.taken and not plain.quotas.taken, "free places")

        assert [read_to_end(connection) for connection in silent] == [b"", b""]
        assert not server.arrivals
        for connection in silent:
            connection.close()


@pytest.mark.anyio
async def test_address_has_so_many_connections_and_no_more(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond its limit an address is turned away, whatever its connections say; one line of the log tells of it."""
    limits = Limits(connections_per_address_max=2)
    async with running_broker(limits=limits) as plain, encrypted_broker(certificates, limits) as secret:
        for server in (plain, secret):
            caplog.clear()
            inside = [dial(server.broker.name) for _ in range(2)]
            await eventually(lambda quotas=server.quotas: quotas.taken == 2, "places")

            outside = [dial(server.broker.name) for _ in range(3)]
            for connection in outside:
                connection.settimeout(WAIT_S)
                await eventually(lambda one=connection: _is_closed(one), "a closed connection")
                connection.close()

            assert sum("too_many_connections" in record.getMessage() for record in caplog.records) == 1
            for connection in inside:
                connection.close()
            await eventually(lambda quotas=server.quotas: not quotas.taken, "free places")


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.anyio
async def test_place_is_given_back_by_every_kind_of_connection() -> None:
    """Native, HTTP, rubbish and silent connections all leave their place when they end."""
    async with running_broker() as server:
        for data in (b"", b"GET /rpc HTTP/1.1\r\nConnection: close\r\n\r\n", b"\x00" * 24, b"\xff", b"GET"):
            with dial(server.broker.name) as connection:
                await eventually(lambda: server.quotas.taken, "a place")
                connection.sendall(data)
            await eventually(lambda: not server.quotas.taken and not server.arrivals, f"a free place after {data!r}")
        with pytest.raises(RpcError) as caught:
            await connect("Lab", broker=server.broker.name).add(1, 2)
        assert caught.value.code is Code.UNAVAILABLE
        assert server.quotas.taken == 1
        await close_fleets(parse_addresses(server.broker.name))
        await eventually(lambda: not server.quotas.taken, "a free place")


@pytest.mark.anyio
async def test_broker_with_tls_closes_at_once(certificates: Certificates) -> None:
    """Connections in the middle of a handshake do not keep a broker from ending, nor the port from being free."""
    async with encrypted_broker(certificates) as server:
        half = dial(server.broker.name)
        half.sendall(b"\x16\x03\x01")
        await eventually(lambda: server.quotas.taken, "a place")
        address = parse_addresses(server.broker.name)[0]

    assert read_to_end(half) == b""
    half.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port))


def test_broker_of_serve_speaks_tls_too(certificates: Certificates, processes: Processes, tmp_path: Path) -> None:
    """`serve` with a certificate and no broker starts one that speaks TLS, and is its first client."""
    probe = socket.create_server(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    env = {"ZBUSRPC_PORT": str(port), "ZBUSRPC_TLS_CERT": certificates.issue(), "ZBUSRPC_TLS_CA": certificates.ca_file}

    service = processes.zbusrpc("serve", LAB, "--json", **env, ZBUSRPC_DATA_DIR=str(tmp_path / "data"))

    assert service.wait_ready()["broker"] == f"tls://127.0.0.1:{port}"
