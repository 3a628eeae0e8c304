from __future__ import annotations

import os

from strop.workers.log import Log


def test_the_tail_is_bounded_and_clearing_starts_over() -> None:
    log = Log()
    os.write(log.fileno(), "".join(f"line {index}\n" for index in range(10_000)).encode())
    assert log.tail(3) == "line 9997\nline 9998\nline 9999"
    log.clear(beyond=10**6)
    assert log.tail(1) == "line 9999"
    log.clear()
    os.write(log.fileno(), b"fresh \xff\n")
    assert log.tail() == "fresh \ufffd"
    log.close()
    assert log.tail() == ""
