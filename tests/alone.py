"""Run what failed last once more, alone; the exit status is pytest's of that second run.

    python -m pytest --cache-clear … || python tests/alone.py

More than three failures are no accident: they are not run again, and the status is 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MOST = 3
FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main() -> int:
    """The status of the second run, or 1 without one."""
    failed = json.loads(FAILED.read_text()) if FAILED.exists() else {}
    if not 0 < len(failed) <= MOST:
        return 1
    print(f"once more, alone: {', '.join(failed)}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "--last-failed", "--doctest-modules"]
    return subprocess.run([*command, "src", "tests"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
