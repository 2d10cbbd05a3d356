"""Settings: where they come from, which one wins, and the line that names a mistake."""

from pathlib import Path

import pytest

from zbusrpc.config import (
    DEFAULT_BROKER,
    ENV_PREFIX,
    Settings,
    client_security,
    default_broker,
    environment_of,
    load_settings,
    set_client_security,
)
from zbusrpc.errors import ConfigError


@pytest.fixture(autouse=True)
def _nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{ENV_PREFIX}{name.upper()}", raising=False)


def test_defaults_hold_where_nothing_is_said() -> None:
    """Without any source the defaults of the model hold."""
    assert load_settings() == Settings()


def test_command_line_wins_over_environment_over_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearer a source is to the person, the more it counts; None is no value."""
    Path("zbusrpc.toml").write_text('port = 1\nhost = "file"\ntimeout = 5\n')
    monkeypatch.setenv("ZBUSRPC_PORT", "2")
    monkeypatch.setenv("ZBUSRPC_HOST", "environment")

    settings = load_settings(port=3, timeout=None)

    assert (settings.port, settings.host, settings.timeout) == (3, "environment", 5.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"port": 70_000}, r"--port = 70000: input should be less"),
        ({"timeout": 0}, r"--timeout = 0"),
        ({"timeout": float("nan")}, r"--timeout = nan"),
        ({"message_bytes_max": 5}, r"--message-bytes-max = 5"),
        ({"log_level": "loud"}, r"--log-level = 'loud'"),
    ],
)
def test_wrong_option_is_named_with_its_value(given: dict[str, object], words: str) -> None:
    """A value that cannot be used is named as it was spelled."""
    with pytest.raises(ConfigError, match=words):
        load_settings(**given)


def test_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value in the environment is named by its variable."""
    monkeypatch.setenv("ZBUSRPC_CONCURRENCY", "many")

    with pytest.raises(ConfigError, match=r"ZBUSRPC_CONCURRENCY = 'many'"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", r"prot in zbusrpc.toml is no setting; did you mean port\?"),
        ("port = ", r"zbusrpc.toml: "),
        ("[broker]\nhost = 'x'", r"broker in zbusrpc.toml"),
    ],
)
def test_mistake_in_the_file_is_named(text: str, words: str) -> None:
    """A mistake in zbusrpc.toml is named with the file."""
    Path("zbusrpc.toml").write_text(text)

    with pytest.raises(ConfigError, match=words):
        load_settings()


def test_file_that_is_no_text_is_named() -> None:
    """A file in another encoding gives one line."""
    Path("zbusrpc.toml").write_bytes(b"host = '\xff'")

    with pytest.raises(ConfigError, match=r"zbusrpc\.toml"):
        load_settings()


def test_default_broker_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`connect` uses ZBUSRPC_BROKER, or localhost when that is empty."""
    assert default_broker() == DEFAULT_BROKER
    monkeypatch.setenv("ZBUSRPC_BROKER", "")
    assert default_broker() == DEFAULT_BROKER
    monkeypatch.setenv("ZBUSRPC_BROKER", "b:1")
    assert default_broker() == "b:1"


def test_unknown_variable_is_refused_with_the_nearest_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo in the environment is no less a mistake than one in the file."""
    monkeypatch.setenv("ZBUSRPC_GRAC", "3")

    with pytest.raises(ConfigError, match=r"ZBUSRPC_GRAC is no setting; did you mean ZBUSRPC_GRACE\?"):
        load_settings()


def test_clients_use_the_broker_of_the_file() -> None:
    """`connect` finds the broker in zbusrpc.toml as the commands do."""
    Path("zbusrpc.toml").write_text('broker = "mq:15555"\n')

    assert default_broker() == "mq:15555"


def test_broker_of_the_file_must_be_a_text() -> None:
    """A number is no address, and the line says how to write one."""
    Path("zbusrpc.toml").write_text("broker = 15555\n")

    with pytest.raises(ConfigError, match=r"broker in zbusrpc.toml = 15555: write it as a text"):
        default_broker()


# -- security ------------------------------------------------------------------------------------------------


def test_token_is_shown_in_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret is neither in what settings look like nor in the line about a mistake in it."""
    Path("zbusrpc.toml").write_text('token = ["s3cret"]\n')
    with pytest.raises(ConfigError, match=r"token in zbusrpc\.toml: input should be a valid string") as caught:
        load_settings()

    monkeypatch.setenv("ZBUSRPC_TOKEN", "s3cret")

    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(load_settings())
    assert "s3cret" not in repr(client_security())
    assert client_security().token.get_secret_value() == "s3cret"


def test_clients_are_secured_by_environment_and_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What concerns connections comes from where settings come from; other settings do not matter to it."""
    Path("zbusrpc.toml").write_text('tls = true\ntls_ca = "ca.pem"\ntoken = "old"\nport = "no port"\n')
    monkeypatch.setenv("ZBUSRPC_TOKEN", "new")
    monkeypatch.setenv("ZBUSRPC_TLS_CLIENT_CERT", "me.pem")

    found = client_security()

    assert (found.tls, found.tls_ca, found.tls_client_cert, found.tls_client_key) == (True, "ca.pem", "me.pem", None)
    assert found.token.get_secret_value() == "new"


def test_mistake_in_what_secures_clients_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that cannot be used is named with its variable."""
    monkeypatch.setenv("ZBUSRPC_TLS", "perhaps")

    with pytest.raises(ConfigError, match=r"ZBUSRPC_TLS = 'perhaps'"):
        client_security()


def test_command_line_secures_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command is told holds for every connection from then on; what it is not told stays."""
    monkeypatch.setenv("ZBUSRPC_TOKEN", "")
    monkeypatch.setenv("ZBUSRPC_TLS", "0")
    monkeypatch.setenv("ZBUSRPC_TLS_CA", "ca.pem")

    set_client_security(token="s3cret", tls=True, tls_ca=None, port=7)

    found = client_security()
    assert (found.token.get_secret_value(), found.tls, found.tls_ca) == ("s3cret", True, "ca.pem")


@pytest.mark.parametrize(
    ("value", "origins"),
    [("", ()), ("https://a", ("https://a",)), ("https://a, https://b", ("https://a", "https://b"))],
)
def test_list_of_the_environment_has_commas(
    monkeypatch: pytest.MonkeyPatch, value: str, origins: tuple[str, ...]
) -> None:
    """One variable may name several origins."""
    monkeypatch.setenv("ZBUSRPC_ALLOW_ORIGINS", value)

    assert load_settings().allow_origins == origins


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("https://App.example.org/", "https://app.example.org"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("*", "*"),
        ("https://app.example.org:443", "https://app.example.org"),
        ("http://app.example.org:80/", "http://app.example.org"),
        ("http://app.example.org:443", "http://app.example.org:443"),
        ("http://[0:0:0:0:0:0:0:1]:8000", "http://[::1]:8000"),
        ("http://127.0.0.1:*", "http://127.0.0.1:*"),
        ("https://*.Example.org", "https://*.example.org"),
        ("app://localhost", "app://localhost"),
        ("chrome-extension://abc", "chrome-extension://abc"),
    ],
)
def test_origins_are_as_browsers_write_them(written: str, known: str) -> None:
    """A slash at the end, as it stands in the address bar, capital letters and the usual port do no harm."""
    assert load_settings(allow_origins=[written]).allow_origins == (known,)


@pytest.mark.parametrize("wrong", ["app.example.org", "http://", "https://a.example/path", "foo"])
def test_what_is_no_origin_is_refused(wrong: str) -> None:
    """A page would get 403, and nobody would know why."""
    with pytest.raises(ConfigError, match="is no origin: write https://app"):
        load_settings(allow_origins=[wrong])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("null", "null may be any page: have a web server show it and say --allow-origin http://localhost"),
        ("file:///home/me/index.html", "may be any page: have a web server show it"),
        ("wss://app.example.org", "is no page: name the one that opens the WebSocket, such as https://app.example.org"),
        ("http://*", "a star where none can stand: write * for a port, as in http://127.0.0.1:*"),
        ("http://app.*.example.org", "a star where none can stand"),
        ("https://app*.example.org", "a star where none can stand"),
        ("app://*", "has a star, which may stand in origins with http:// and https:// only"),
        ("http://localhost:0", "has no port from 1 to 65535"),
        ("http://localhost:99999", "has no port from 1 to 65535"),
        ("https://b\u00fccher.example", "browsers write a name in ASCII"),
        ("http://me@app.example.org", "is no origin"),
        ("http://[:::]", "is no address"),
    ],
)
def test_origin_that_no_browser_names_is_refused(wrong: str, reason: str) -> None:
    """It would match nothing; the line says what to write."""
    with pytest.raises(ConfigError) as caught:
        load_settings(allow_origins=[wrong])

    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["foo:bar", "http://x", "a b", "host:", "host:0", "x:99999"])
def test_what_is_no_address_is_not_advertised(wrong: str) -> None:
    """Clients would be sent there."""
    with pytest.raises(ConfigError, match=f"--advertise = '{wrong}': write host or host:port, with a port from 1 to"):
        load_settings(advertise=wrong)


def test_other_process_gets_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was given, of whatever kind, goes by the environment; what was not is left to the other's own."""
    origins = ("https://a.example", "https://b.example")
    settings = load_settings(port=7, token="secret", insecure=True, log_json=False, data_dir="", allow_origins=origins)

    environment = environment_of(settings)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert load_settings() == settings
    assert len(environment) == 6


OF_CONTAINERS = {
    "ZBUSRPC_SERVICE_HOST": "10.96.13.7",
    "ZBUSRPC_SERVICE_PORT": "15555",
    "ZBUSRPC_SERVICE_PORT_HTTP_METRICS": "15555",
    "ZBUSRPC_PORT": "tcp://10.96.13.7:15555",
    "ZBUSRPC_PORT_15555_TCP": "tcp://10.96.13.7:15555",
    "ZBUSRPC_PORT_15555_TCP_PROTO": "tcp",
    "ZBUSRPC_PORT_15555_TCP_PORT": "15555",
    "ZBUSRPC_PORT_15555_TCP_ADDR": "10.96.13.7",
    "ZBUSRPC_PORT_53_UDP_ADDR": "fd00::7",
    "ZBUSRPC_PORT_7_SCTP": "sctp://[fd00::7]:7",
    "ZBUSRPC_BROKER_SERVICE_HOST": "10.96.13.8",
    "ZBUSRPC_BROKER_PORT": "tcp://10.96.13.8:15555",
    "ZBUSRPC_MQ_1_PORT_15555_TCP_ADDR": "10.96.13.8",
    "ZBUSRPC_NAME": "/shop/zbusrpc",
    "ZBUSRPC_ENV_PYTHON_VERSION": "3.12",
    "ZBUSRPC_ENV_ZBUSRPC_GRACE": "5",
}
"""What Kubernetes sets for Services called `zbusrpc`, `zbusrpc-broker` and `zbusrpc-mq-1`, and Docker for a link."""


def test_variables_of_containers_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service that is called `zbusrpc` stops nothing: neither commands, nor clients, nor the processes they start."""
    for name, value in OF_CONTAINERS.items():
        monkeypatch.setenv(name, value)

    settings = load_settings(workers=2)

    assert settings == Settings(workers=2)
    assert client_security() is not None
    assert default_broker() == DEFAULT_BROKER
    assert environment_of(settings) == {"ZBUSRPC_WORKERS": "2"}


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ZBUSRPC_GRASE", "3", r"ZBUSRPC_GRASE is no setting; did you mean ZBUSRPC_GRACE\?"),
        ("ZBUSRPC_PORT", "tcp:/x", r"ZBUSRPC_PORT = 'tcp:/x'"),
        ("ZBUSRPC_PORT", "many", r"ZBUSRPC_PORT = 'many'"),
        ("ZBUSRPC_NAME", "shop", r"ZBUSRPC_NAME is no setting"),
        ("ZBUSRPC_PORTS", "tcp://10.96.13.7:15555", r"ZBUSRPC_PORTS is no setting"),
        ("ZBUSRPC_PORT_15555", "1", r"ZBUSRPC_PORT_15555 is no setting"),
        ("ZBUSRPC_HOSTS", "x", r"ZBUSRPC_HOSTS is no setting"),
        ("ZBUSRPC_BROKER_PORT", "15555", r"ZBUSRPC_BROKER_PORT is no setting"),
        ("ZBUSRPC_SERVICE", "x", r"ZBUSRPC_SERVICE is no setting"),
    ],
)
def test_mistakes_beside_them_are_still_named(
    variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only looks like a variable of a container is a mistake."""
    for name, of_a_container in OF_CONTAINERS.items():
        monkeypatch.setenv(name, of_a_container)
    monkeypatch.setenv(variable, value)

    with pytest.raises(ConfigError, match=words):
        load_settings()
