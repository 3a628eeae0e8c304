"""Help works everywhere, says what there is, and loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

COMMANDS = (
    "optimize",
    "demo",
    "inspect",
    "compare",
    "profile",
    "bench",
    "verify",
    "report",
    "load-test",
    "doctor",
    "conformance",
)
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "scipy", "pydantic", "numpy")


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def _strop(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _python("from strop.cli import main; main()", *arguments)


def test_help_names_every_command() -> None:
    done = _strop("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert f" {name} " in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name: str) -> None:
    done = _strop(name, "--help")
    assert done.returncode == 0
    assert f"strop {name}" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize("line", ["import strop", "from strop.cli import main; main()"])
def test_nothing_heavy_is_imported(line: str) -> None:
    code = f"""
import sys
sys.argv[1:] = ["--help"]
try:
    {line}
except SystemExit:
    pass
heavy = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"imported: {{heavy}}" if heavy else 0)
"""
    done = _python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "No such command"),
        (("optimize", "--data", "d.npz"), "Missing argument 'MODEL...'"),
        (("inspect",), "Missing argument 'MODEL'; 'strop inspect --help' says how to call it"),
        (("optimise", "a"), "Did you mean 'optimize'? 'strop --help' says how to call it"),
        (("compare", "a", "b"), "--data"),
        (("doctor", "--loud"), "--loud"),
        (("inspect", "missing.onnx"), "missing.onnx"),
        (("inspect", "net.py:build"), "--trust"),
        (("verify", "missing"), "missing"),
        (("report", "missing"), "missing"),
        (("serve", "missing", "--port", "9000"), "'missing' does not exist"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments: tuple[str, ...], words: str) -> None:
    done = _strop(*arguments)
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("strop: ")
    assert words in last
    assert "Traceback" not in done.stderr


def test_without_a_command_the_help_is_shown() -> None:
    done = _strop()
    assert done.returncode == 2
    assert "Usage: strop" in done.stdout
    assert not done.stderr


def test_python_m_strop_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "strop", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == version("strop")


def test_an_interruption_while_it_starts_is_one_line() -> None:
    code = """
import sys

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "strop.cli.app":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
import strop.cli
strop.cli.main()
"""
    done = _python(code)
    assert (done.returncode, done.stderr) == (130, "strop: interrupted\n")


def test_a_file_that_is_closed_to_the_user_is_no_fault_of_strops() -> None:
    code = """
import errno
from strop.cli import app as cli

def refused(**options):
    raise PermissionError(errno.EACCES, "Permission denied", "examples.npz")

cli.app = refused
cli.run()
"""
    done = _python(code)
    assert done.returncode == 2
    told = "strop: 'examples.npz' cannot be used: Permission denied; name another\n"
    assert done.stderr == told
