"""The page in a real browser: the script runs, nothing is refused, the plot and table answer."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from strop import report

from . import made

pytestmark = pytest.mark.browser

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=4000",
    "--dump-dom",
)

# A page around the report that uses it as a reader would, and writes down what it saw.
_READER = """<!DOCTYPE html><html><body>
<iframe width="WIDTH" height="9000" src="report.html"></iframe>
<script>
document.querySelector("iframe").addEventListener("load", (event) => {
  const page = event.target.contentDocument, seen = document.body.dataset;
  const press = (key) => page.activeElement.dispatchEvent(
    new (page.defaultView.KeyboardEvent)("keydown", {key, bubbles: true, cancelable: true}));
  const first = () => [...page.querySelectorAll(".trials tbody tr")]
    .filter((row) => !row.hidden).map((row) => row.id).slice(0, 3).join(" ");
  const tip = page.querySelector(".tip");
  seen.ready = page.documentElement.dataset.ready;
  seen.failed = page.documentElement.dataset.failed;
  seen.overflow = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  const stops = page.querySelectorAll('.mark[tabindex="0"]');
  seen.stops = stops.length;
  stops[0].focus();
  seen.tip = tip.hidden ? "" : tip.textContent;
  press("Enter");
  press("ArrowLeft");
  press("Enter");
  const kept = () => [...page.querySelectorAll(".pinned tbody tr")];
  seen.pinned = kept().map((row) => row.dataset.n).join(" ");
  page.querySelector(".pinned button").click();
  seen.unpinned = kept().length;
  press("Escape");
  seen.hidden = tip.hidden;
  page.querySelector(".engines input").click();
  seen.off = [...new Set([...page.querySelectorAll(".mark.off")].map((m) => m.dataset.engine))];
  const speed = page.querySelector('th[data-key="speed"] button');
  speed.click();
  seen.slowest = first();
  speed.click();
  seen.fastest = first();
  seen.sort = speed.parentElement.ariaSort;
  const find = page.querySelector(".controls input[type=search]");
  find.value = "NNCF";
  find.dispatchEvent(new (page.defaultView.Event)("input"));
  seen.found = first();
  seen.count = page.querySelector(".controls output").textContent;
  find.value = "";
  page.querySelector('.controls input[value="failed"]').click();
  seen.unfailed = page.querySelector(".controls output").textContent;
});
</script></body></html>"""


def dump(chromium: str, page: Path, profile: Path, *flags: str) -> str:
    """The page's document after its script ran; fails on anything said on the console."""
    command = [chromium, *_FLAGS, *flags, f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert said == []
    return done.stdout


@pytest.mark.parametrize("folder", ["improved_folder", "unimproved_folder"])
def test_the_script_runs_without_a_word(
    chromium: str, folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    page = report.write(request.getfixturevalue(folder))
    document = dump(chromium, page, tmp_path / "profile")
    assert 'data-ready="true"' in document
    assert "data-failed" not in document
    assert "19 of 19" in document


@pytest.mark.parametrize("width", [400, 1280])
def test_a_reader_can_sort_filter_point_and_pin(
    chromium: str, improved_folder: Path, tmp_path: Path, width: int
) -> None:
    report.write(improved_folder)
    reader = improved_folder / "reader.html"
    reader.write_text(_READER.replace("WIDTH", str(width)))
    document = dump(chromium, reader, tmp_path / "profile", "--allow-file-access-from-files")
    body = re.search(r"<body([^>]*)>", document)
    assert body is not None
    seen = dict(re.findall(r'data-([a-z]+)="([^"]*)"', body[1]))
    assert seen["ready"] == "true" and seen["failed"] == "undefined"
    assert int(seen["overflow"]) <= 0
    assert seen["stops"] == "1"
    assert seen["tip"].startswith(str(made.CHOSEN))
    assert "speed 2.91× (2.82 to 3.00)" in seen["tip"]
    assert seen["pinned"] == "9 11"
    assert seen["unpinned"] == "1"
    assert seen["hidden"] == "true"
    assert seen["off"] == "e0"
    assert seen["slowest"] == "t18 t3 t0"
    assert seen["fastest"] == "t12 t13 t9"
    assert seen["sort"] == "descending"
    assert seen["found"] == "t14" and seen["count"] == "1 of 19"
    assert seen["unfailed"] == "18 of 19"
