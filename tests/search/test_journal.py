from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from strop.records import StageEntered, Warned
from strop.search.journal import Journal, read_journal


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append(StageEntered(stage="race"))
    journal.append(Warned(message="NaN"))
    journal.close()
    assert list(read_journal(path)) == [StageEntered(stage="race"), Warned(message="NaN")]


def test_a_torn_tail_is_ignored_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append(StageEntered(stage="race"))
    journal.close()
    with path.open("ab") as stream:
        stream.write(b'{"event":"warned","mess')
    assert list(read_journal(path)) == [StageEntered(stage="race")]
    journal = Journal(path)
    journal.append(Warned(message="after"))
    journal.close()
    assert list(read_journal(path)) == [StageEntered(stage="race"), Warned(message="after")]


def test_kill_9_loses_no_event_that_append_returned_from(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    script = (
        "import sys; from pathlib import Path\n"
        "from strop.records import Warned\n"
        "from strop.search.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for number in range(100000):\n"
        "    journal.append(Warned(message=str(number)))\n"
        "    print(number, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    deadline = time.monotonic() + 60
    acknowledged = 0
    while acknowledged < 20 and time.monotonic() < deadline:
        acknowledged = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().split()
    process.stdout.close()
    process.wait()
    last = int(rest[-1]) if rest else acknowledged
    messages = [event.message for event in read_journal(path) if isinstance(event, Warned)]
    assert messages[: last + 1] == [str(number) for number in range(last + 1)]
