"""The static types of the public API, as mypy --strict and pyright (strict) see them.

`programs/` holds what must pass, and lines that must be refused. The latter are marked `# E: reason`; each checker
runs once over all files, and the lines it refuses must be exactly those that are marked.
"""

import json
import sys
from pathlib import Path

import pytest

from tests.support.checkers import run_mypy
from tests.support.processes import run_to_end

PROGRAMS = Path(__file__).parent / "programs"
MARK = "# E: "

Place = tuple[str, int]


def test_py_typed_is_in_package() -> None:
    """The package says that it has types: checkers ignore those of others."""
    import zbusrpc

    assert (Path(zbusrpc.__file__).parent / "py.typed").is_file()


def test_mypy_refuses_marked_lines_only() -> None:
    """mypy --strict takes every right line and refuses every wrong one."""
    result = run_mypy(PROGRAMS, "--no-error-summary", "--hide-error-context", "--no-pretty", ".")

    assert result.exit_code == 1, result.output + result.errors
    output = result.output
    places = {place_of(line) for line in output.splitlines() if ": error: " in line}
    assert places == marked_places(), output


def test_pyright_refuses_marked_lines_only() -> None:
    """pyright in strict mode takes every right line and refuses every wrong one."""
    command = [sys.executable, "-m", "pyright", "--project", ".", "--pythonpath", sys.executable, "--outputjson"]
    result = run_to_end(command, cwd=PROGRAMS, is_fresh=True)

    assert result.exit_code == 1, result.output + result.errors
    found = json.loads(result.output)["generalDiagnostics"]
    places = {(Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in found}
    assert places == marked_places(), json.dumps(found, indent=1)


@pytest.mark.parametrize("name", ["declared.py", "made.py"])
def test_services_of_programs_are_real(name: str) -> None:
    """The services that the checkers see can be defined at run time, too."""
    result = run_to_end([sys.executable, name], cwd=PROGRAMS)

    assert (result.exit_code, result.errors) == (0, "")


@pytest.mark.parametrize("name", ["declared.py", "made.py", "right.py", "messages.py"])
def test_right_programs_have_no_marks(name: str) -> None:
    """What must pass is not marked by mistake."""
    assert MARK not in (PROGRAMS / name).read_text()


def place_of(line: str) -> Place:
    """Return file and line of an error of mypy: `wrong.py:11: error: ...`."""
    name, number, _ = line.split(":", 2)
    return name, int(number)


def marked_places() -> set[Place]:
    """Return the lines that are marked."""
    return {
        (path.name, number)
        for path in PROGRAMS.glob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if MARK in line
    }
