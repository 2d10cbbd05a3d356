"""Java's own HTTP client as it is by default: it offers `Upgrade: h2c` with its first request of a connection."""

import re
import shutil
from pathlib import Path

import pytest

from tests.support.nursery import ROOT
from tests.support.processes import Processes
from tests.support.waiting import WAIT_S
from tests.support.web import WebLab

pytestmark = pytest.mark.skipif(
    shutil.which("javac") is None, reason="there is no JDK; on Debian: apt-get install default-jdk-headless"
)
START_S = 3 * WAIT_S
"""A JDK compiles the program first, and a machine may be busy."""
PROGRAM = """
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.*;
import java.net.http.HttpRequest.*;
import java.net.http.HttpResponse.*;
import java.util.Arrays;
import java.util.Iterator;
import java.util.concurrent.*;

public class Client {
    static final String BROKER = "http://ADDRESS";
    static final HttpClient client = HttpClient.newHttpClient();

    static HttpRequest to(String path, BodyPublisher body) {
        return HttpRequest.newBuilder(URI.create(BROKER + path)).POST(body).build();
    }

    static void post(String path, BodyPublisher body) throws Exception {
        HttpResponse<String> answer = client.send(to(path, body), BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.version());
    }

    static void readme() throws Exception {
        README
        System.out.println(json);
    }

    public static void main(String[] arguments) throws Exception {
        readme();
        byte[] large = new byte[2 << 20];
        Arrays.fill(large, (byte) 'x');
        post("/produce/QUEUE", BodyPublishers.ofString("small"));
        post("/produce/QUEUE", BodyPublishers.ofByteArray(large));
        post("/produce/QUEUE", BodyPublishers.ofInputStream(() -> new ByteArrayInputStream("chunked".getBytes())));
        HttpRequest call = to("/rpc/Lab", BodyPublishers.ofString("{\\"method\\":\\"add\\",\\"params\\":[3,4]}"));
        System.out.println(HttpClient.newHttpClient().send(call, BodyHandlers.ofString()).body());
        HttpRequest follow = HttpRequest.newBuilder(URI.create(BROKER + "/consume/QUEUE/g"))
            .header("Accept", "text/event-stream").build();
        Iterator<String> lines = client.send(follow, BodyHandlers.ofLines()).body().iterator();
        System.out.println(lines.next() + " " + lines.next());
        BlockingQueue<String> received = new LinkedBlockingQueue<>();
        WebSocket socket = client.newWebSocketBuilder().buildAsync(URI.create(BROKER.replace("http", "ws") + "/"),
            new WebSocket.Listener() {
                public CompletionStage<?> onText(WebSocket from, CharSequence text, boolean isLast) {
                    received.add(text.toString());
                    return WebSocket.Listener.super.onText(from, text, isLast);
                }
            }).get();
        socket.sendText("GET /ping HTTP/1.1\\r\\nid: 7\\r\\n\\r\\n", true);
        System.out.println(received.take().startsWith("HTTP/1.1 200 OK\\r\\n"));
        System.exit(0);
    }
}
"""


def readme_lines() -> str:
    """Return the README's Java."""
    (block,) = re.findall(r"^```java\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


def test_default_client_of_java_calls_and_produces(
    processes: Processes, web_lab: WebLab, queue: str, tmp_path: Path
) -> None:
    """The README's lines, bodies small, large and in chunks, a call, events and a WebSocket."""
    shown = readme_lines()
    assert "localhost:15555/rpc/Calc/add/1/2" in shown
    lines = shown.replace("localhost:15555", web_lab.address).replace("Calc", "Lab")
    text = PROGRAM.replace("README", lines).replace("ADDRESS", web_lab.address).replace("QUEUE", queue)
    (tmp_path / "Client.java").write_text(text)

    java = processes.start("java", "-XX:TieredStopAtLevel=1", str(tmp_path / "Client.java"))

    assert java.wait_exit(START_S) == 0, java.errors
    posted, (event, socket) = java.output.splitlines()[1:4], java.output.splitlines()[5:]
    assert java.output.splitlines()[0] == '{"result":3}'
    assert posted == ["200 HTTP_1_1"] * 3
    assert java.output.splitlines()[4] == '{"result":7}'
    assert (event, socket) == ("id: 0 data: small", "true")
    bodies = [web_lab.ask(f"GET /consume/{queue}?timeout=20").body for _ in range(3)]
    assert bodies == [b"small", b"x" * (2 << 20), b"chunked"]
