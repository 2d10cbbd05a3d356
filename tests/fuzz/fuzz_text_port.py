"""Fuzz the text port of a broker, guided by what the broker's code does: `make fuzz`.

The requests of the zbus vectors are what it starts from. Each input is one connection; see `tests/support/text_port.py`
for what is looked at. An input that breaks something is written to a file that is named at the end, and

    python tests/fuzz/fuzz_text_port.py FILE

shows it again. Atheris is to be had by `pip install ".[fuzz]"`; it knows Linux and macOS.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import atheris  # noqa: E402 - what is imported from here on is watched

with atheris.instrument_imports(include=["zbusrpc.broker", "zbusrpc.transport"]):
    from tests.support.text_port import PAUSE, Port, open_port
    from tests.support.text_wire import UPGRADE, frame

INPUT_BYTES_MAX = 8192
CUTS_MAX = 3
VECTORS = ROOT / "tests/conformance/zbus_vectors.json"
WORDS = [
    "GET / HTTP/1.1", "POST /", "HEAD /", "\\x0d\\x0a", "\\x0d\\x0a\\x0d\\x0a", "%0D%0A", "content-length: ", "cmd: ",
    "topic: ", "id: ", "consume_group: ", "transfer-encoding: chunked", "connection: ", "upgrade: websocket",
    "expect: 100-continue", "produce", "consume", "declare", "remove", "query", "route", "rpc", "track_sub",
    "unconsume", "ack", "empty", "group_mask: 64", "topic_mask: 2", "group_filter: ", "offset: ", "recver: ", "/rpc/",
    "timeout: 0.001",
]  # fmt: skip


def blocks_of(data: bytes) -> list[bytes]:
    """Return what a connection says.

    bytes ... | cut, cut, ... of 2 bytes each | how many (2 bits), whether it is a WebSocket (1 bit)
    """
    flags = data[-1] if data else 0
    count = flags >> 1 & CUTS_MAX
    said, places = data[: -1 - 2 * count], data[-1 - 2 * count : -1]
    cuts = sorted(int.from_bytes(places[at : at + 2]) % (len(said) + 1) for at in range(0, len(places), 2))
    blocks = [said[a:b] for a, b in itertools.pairwise([0, *cuts, len(said)]) if a < b]
    return [UPGRADE, PAUSE, *blocks] if flags & 1 else blocks


def write_seeds(directory: Path) -> None:
    """Write the connections of the vectors, as bytes and as frames of a WebSocket."""
    for number, vector in enumerate(json.loads(VECTORS.read_text(encoding="utf-8"))["vectors"]):
        requests = ["\r\n".join(step["send"]).encode() for step in vector["steps"] if "send" in step]
        (directory / f"{number}-tcp").write_bytes(b"".join(requests) + b"\0")
        (directory / f"{number}-websocket").write_bytes(b"".join(frame(2, one) for one in requests) + b"\1")


def fuzz(port: Port, inputs: list[str], seconds: int, broken: Path) -> None:
    """Feed the port until the time is over, or with the inputs that are given."""
    with TemporaryDirectory() as directory:
        options = [f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}", f"-artifact_prefix={broken}/"]
        if not inputs:
            seeds, words = Path(directory) / "seeds", Path(directory) / "words"
            seeds.mkdir()
            write_seeds(seeds)
            words.write_text("".join(f'"{word}"\n' for word in WORDS))
            inputs = [str(seeds), f"-dict={words}"]
        atheris.Setup([sys.argv[0], *options, *inputs], lambda data: port.talk(blocks_of(data)) and None)
        atheris.Fuzz()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("input", nargs="*", help="files to look at again, in place of new ones")
    parser.add_argument("--seconds", type=int, default=300, help="how long (default 300)")
    parser.add_argument(
        "--broken", type=Path, default=Path(".hypothesis/text_port"), help="directory for inputs that break it"
    )
    options = parser.parse_args()
    options.broken.mkdir(parents=True, exist_ok=True)
    with open_port() as port:
        fuzz(port, options.input, options.seconds, options.broken)


if __name__ == "__main__":
    main()
