"""Files of the broker: nobody else on the machine reads messages, positions or tokens, whatever the umask."""

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.inprocess import running_broker
from zbusrpc import Producer
from zbusrpc.broker.access.rights import Operation
from zbusrpc.broker.access.token_file import RuleEntry, add_token

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.name == "nt", reason="Windows has rights of another kind"),
]


@pytest.fixture
def careless_umask() -> Iterator[None]:
    """Let whatever is made be for everybody, unless somebody thinks of it."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("careless_umask")
async def test_files_of_a_broker_are_its_users_alone(tmp_path: Path) -> None:
    """Directories above the data directory that were not there, segments, indexes, the journal and the lock."""
    data = tmp_path / "new" / "data"

    async with running_broker(data_dir=str(data)) as server:
        async with Producer("orders", broker=server.broker.name) as producer:
            await producer.send(b"secret")
        found = [data.parent, data, *data.rglob("*")]

    assert len(found) > 8
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in found if path.exists()}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


@pytest.mark.usefixtures("careless_umask")
async def test_token_file_is_its_users_alone(tmp_path: Path) -> None:
    """As the command line writes it."""
    file = tmp_path / "tokens.toml"

    add_token(str(file), "shop", RuleEntry(operations=[Operation.QUERY], topics=("*",)), datetime.now(UTC))

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_directory_that_others_may_look_into_is_warned_about(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The broker leaves it as somebody has made it, and says in one line what to do."""
    os.chmod(tmp_path, 0o755)

    async with running_broker(data_dir=str(tmp_path)):
        pass

    said = caplog.text + capfd.readouterr().err + capfd.readouterr().out
    assert f"chmod 700 {tmp_path}" in said
