"""Each program in examples/ runs, and prints what it is there to show."""

import os
import sys
from pathlib import Path

import pytest

from tests.support.checkers import run_mypy
from tests.support.processes import Ended, run_to_end

EXAMPLES = Path(__file__).parent.parent / "examples"
SHOWN = {
    "01_quickstart.py": ["calc.add(1, 2) = 3"],
    "02_types.py": ["a Receipt over 3.00", "['lines', 0, 'price'] Input should be a valid decimal"],
    "03_errors.py": ["| missing = 250", "unexpected: INTERNAL: Bank.audit failed", "invalid: INVALID_ARGUMENT"],
    "04_deadlines.py": ["too late: DEADLINE_EXCEEDED", "handlers cancelled: 2", "inherits the deadline: True"],
    "05_retries.py": [
        "at once: UNAVAILABLE | may have run: False",
        "waited: read at try 3",
        "not retried: UNAVAILABLE",
    ],
    "06_threads.py": ["primes.factor(91) = [7, 13]", "in an event loop: Primes.factor blocks", "so: [7, 13]"],
    "07_startup.py": ["opened :memory:\nnotes: 2\nclosed :memory:"],
    "08_http.py": ['path      200 {"result":3}', "mistake   501", "nobody    503", 'metadata  200 {"result":"ada"}'],
    "09_context.py": ["hello ada: Greeter.hello, attempt 1"],
    "10_workers.py": ["processes that answered: 2"],
    "11_tracing.py": ["SERVER Calc/add (child of the client's)", "CLIENT Calc/add", "result 3"],
    "12_messages.py": [
        "stored at offset 0 level disk",
        "billed bob 100",
        "europe: bob tag eu.new offset 1",
        "dead letter: 0 a price is not negative",
    ],
    "13_work_queue.py": ["in order: a1 a2 a3", "in order: b1 b2 b3", "came again: b2"],
    "14_durable_service.py": ["waits while nobody serves: True", "transferred: 250"],
    "16_several_brokers.py": ["brokers that were given calls: 3", "calls failed while one was taken out: 0"],
    "demo.py": ["Typed client", "Blocking client", "Plain HTTP", "Command line", "calls/s", "All results are right"],
}
"""What each example prints, among other things."""
LIBRARIES = {"calc.py"}
"""What examples import, and what does nothing by itself."""
PAGES = {"15_browser"}
"""What a browser shows: tests/e2e/test_browser.py does."""


@pytest.mark.parametrize("name", SHOWN)
def test_example_runs(name: str, tmp_path: Path) -> None:
    """An example ends with exit code 0, without warnings, and shows what it promises."""
    result = run(name, directory=tmp_path)

    assert result.exit_code == 0, result.output + result.errors
    for text in SHOWN[name]:
        assert text in result.output
    assert "Traceback" not in result.errors


def test_log_lines_carry_id_of_call(tmp_path: Path) -> None:
    """In the example of contexts, the service's lines and those of a library name the call they belong to."""
    lines = run("09_context.py", directory=tmp_path).errors.splitlines()

    calls = [line.split('"call": "')[1].split('"')[0] for line in lines if '"call": "' in line]
    assert len(calls) == 2
    assert len(set(calls)) == 1


def test_every_example_is_tested() -> None:
    """No example is forgotten here."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SHOWN) | LIBRARIES
    assert {path.parent.name for path in EXAMPLES.glob("*/index.html")} == PAGES


def test_examples_pass_mypy() -> None:
    """mypy --strict has nothing to say to any of them."""
    result = run_mypy(EXAMPLES, "--scripts-are-modules", *sorted(path.name for path in EXAMPLES.glob("*.py")))

    assert result.exit_code == 0, result.output + result.errors


def test_demo_that_fails_says_so_and_stops_everything(tmp_path: Path) -> None:
    """A demo whose service is broken ends with one clear line, exit code 1, and no process left."""
    demo = (EXAMPLES / "demo.py").read_text()
    (tmp_path / "demo.py").write_text(demo)
    (tmp_path / "calc.py").write_text((EXAMPLES / "calc.py").read_text().replace("return a + b", "return a - b"))

    result = run("demo.py", directory=tmp_path, folder=tmp_path)

    assert result.exit_code == 1
    assert result.errors.strip() == "demo failed: await calc.add(1, 2) gave -1, not 3"
    for number in [int(line.rpartition(" ")[2]) for line in result.output.splitlines() if ", process " in line]:
        assert not is_running(number)


def run(name: str, *, directory: Path, folder: Path = EXAMPLES) -> Ended:
    """Run an example from some other directory; warnings are errors there, too."""
    return run_to_end([sys.executable, "-W", "error", str(folder / name)], cwd=directory)


def is_running(number: int) -> bool:
    """Say whether there is a process of this number."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
