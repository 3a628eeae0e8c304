from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from strop.errors import InputError, TrustError
from strop.models.user_code import load_function


@pytest.fixture
def write_py(tmp_path):
    """Writes a file of code; gives its path."""

    def write(name: str, code: str) -> str:
        (tmp_path / name).write_text(code)
        return str(tmp_path / name)

    return write


def test_the_function_and_where_it_came_from(write_py):
    path = write_py("code.py", "from dataclasses import dataclass\ndef twice(x): return 2 * x\n")
    function = load_function(f"{path}:twice", trust=True)
    assert function(4) == 8
    assert function.spec == f"{path}:twice"
    assert function.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert str(function) == "code.py:twice"


def test_a_file_runs_once_until_it_changes(write_py):
    path = write_py("code.py", "seen = []\ndef note(): seen.append(1); return len(seen)\n")
    assert [load_function(f"{path}:note", trust=True)() for _ in range(2)] == [1, 2]
    write_py("code.py", "def note(): return 'new'\n")
    assert load_function(f"{path}:note", trust=True)() == "new"


def test_neighbours_can_be_imported(write_py):
    write_py("strop_test_neighbour.py", "VALUE = 5\n")
    path = write_py("code.py", "from strop_test_neighbour import VALUE\ndef five(): return VALUE\n")
    assert load_function(f"{path}:five", trust=True)() == 5


def test_nothing_runs_without_trust(write_py, tmp_path):
    path = write_py("code.py", f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(): pass\n")
    with pytest.raises(TrustError, match="is code, which strop runs only when told to"):
        load_function(f"{path}:f", trust=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("code", "spec", "message"),
    [
        ("", "code.py", "'code.py' does not name a function in a file; write it as file.py:fu"),
        ("", "gone.py:f", "there is no file 'gone.py'"),
        ("def g(): pass", "code.py:f", "'f' is not there in 'code.py'; functions in it: g"),
        ("f = 3", "code.py:f", "'f' is no function in 'code.py'; functions in it: none"),
        ("def f(:", "code.py:f", "'code.py' fails to import: SyntaxError"),
        ("import no_such_thing", "code.py:f", "fails to import: ModuleNotFoundError: No module"),
    ],
)
def test_what_is_wrong_is_told(write_py, tmp_path, monkeypatch, code, spec, message):
    write_py("code.py", code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_function(spec, trust=True)
