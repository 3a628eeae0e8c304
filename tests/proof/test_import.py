from __future__ import annotations

import subprocess
import sys


def test_import_is_light():
    """The search's report and the command line import proof, and the core has no scipy."""
    code = (
        "import sys, strop.proof;"
        "print([m for m in sys.modules if m.split('.')[0] in ('scipy', 'pydantic', 'torch')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
