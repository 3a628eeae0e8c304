"""The page at / in a real browser, against a server that is being asked."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from . import serving
from .serving import post
from .waiting import END

pytestmark = pytest.mark.browser

BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
).encode()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_what_happens(tmp_path: Path, scheme: str) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    model = serving.affine(tmp_path / "affine.onnx")
    with serving.serving(model, f"other={model}", "--slo", "1s") as server:
        stop = threading.Event()

        def ask() -> None:
            with server.connect() as connection:
                while not stop.wait(0.002):
                    connection.sendall(post("/v2/models/affine/infer", BODY))
                    connection.recv(1 << 16)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            command = [
                *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                *("--disable-sync", "--enable-logging=stderr", "--window-size=1200,1400"),
                f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
                # The clock of the page stands still while the server is asked, and flies between.
                *("--virtual-time-budget=8000", f"--user-data-dir={tmp_path / 'profile'}"),
                *("--dump-dom", f"http://{server.address}/"),
            ]
            page, end = "", time.monotonic() + END
            # On a busy machine nothing may be asked while the page looks.
            while "answers a second" not in page and time.monotonic() < end:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=3 * END, check=True
                )
                page = done.stdout
                assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        finally:
            stop.set()
            asking.join()
    assert 'data-ready=""' in page
    assert "2 models are ready" in page
    assert re.search(r"giving [0-9,.]+ answers a second, 99% of them within", page)
    assert 'data-model="affine"' in page
    assert 'data-model="other"' in page
    assert "x: FP32[?, 4]" in page
    assert "answers within 1.0 s" in page
    assert 'class="line"' in page
