"""Sessions that use up a known amount; they live in children, the tests never import them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from strop.measure import meter, tasks
from strop.records import SessionSpec


def load(spec, payload, inputs):
    parsed = SessionSpec.from_dict(spec)
    if root := parsed.options.get("powercap"):
        tasks._meter = meter(root=Path(root))
    tasks.hold(SpendingSession(parsed), inputs)


class SpendingSession:
    """Burns CPU seconds in so many threads, sleeps, and lets fake counters run up."""

    thread_safe = True

    def __init__(self, spec):
        self.signature = spec.signature
        self.options = spec.options

    def run(self, arrays):
        begin = time.process_time()
        threads = [
            threading.Thread(target=_burn, args=(self.options.get("burn", 0.0),))
            for _ in range(self.options.get("burners", 0))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(self.options.get("sleep", 0.0))
        if root := self.options.get("powercap"):
            _count(Path(root), self.options["microjoules"])
        if path := self.options.get("spent"):
            with Path(path).open("a") as file:
                file.write(f"{begin!r} {time.process_time()!r}\n")
        return {"x": arrays["x"]}


def _burn(seconds):
    start = time.thread_time()
    while time.thread_time() - start < seconds:
        pass


def _count(root, microjoules):
    for folder in root.glob("intel-rapl:?"):
        most = int((folder / "max_energy_range_uj").read_text())
        counter = folder / "energy_uj"
        counter.write_text(f"{(int(counter.read_text()) + microjoules) % most}\n")
