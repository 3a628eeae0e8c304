"""Load from one pinned core: bytes made beforehand, keep-alive, and epoll without a framework.

A request costs two system calls and some microseconds of Python, less than any server that
answers it; `closed` reports the share of its core that it used, which says whether it held a
server back. All functions return plain dictionaries, so that they can run in another process.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_WINDOW = 1 << 18
_READ, _BOTH = select.EPOLLIN, select.EPOLLIN | select.EPOLLOUT
_HELLO = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
_OPENING = 30.0  # seconds in which all connections have to be answered
_HEADS = 4096  # heads of answers that are remembered with their status and length


class Link:
    """One connection with at most one request in flight; times are `perf_counter` seconds."""

    __slots__ = ("due", "fd", "got", "rest", "sent", "sock", "tag")

    def __init__(self) -> None:
        self.sock: socket.socket
        self.fd = -1
        self.got = b""
        self.rest: memoryview | None = None
        self.sent = self.due = 0.0
        self.tag = 0


class Client:
    """Connections to one port of this machine."""

    def __init__(self, port: int, connections: int) -> None:
        self._port = port
        self._epoll = select.epoll()
        self._by_fd: dict[int, Link] = {}
        self._heads: dict[bytes, tuple[int, int]] = {}
        self.links = [Link() for _ in range(connections)]
        for link in self.links:
            self._connect(link)

    def ask(self, link: Link, request: bytes) -> None:
        """Send a request on a connection that has none in flight."""
        link.sent = time.perf_counter()
        try:
            sent = link.sock.send(request)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # a connection that is gone is reported by `poll`
        if sent < len(request):
            link.rest = memoryview(request)[sent:]
            self._epoll.modify(link.fd, _BOTH)

    def poll(self, timeout: float) -> list[tuple[Link, int, bytes]]:
        """What was answered: the connection, the status (0: it was closed), head and body."""
        answers: list[tuple[Link, int, bytes]] = []
        for fd, event in self._epoll.poll(timeout):
            link = self._by_fd[fd]
            if link.rest is not None and event & select.EPOLLOUT:
                self._send_rest(link)
            if event == select.EPOLLOUT:
                continue
            try:
                data = link.sock.recv(_WINDOW)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._connect(link)
                answers.append((link, 0, b""))
                continue
            if link.got:
                data = link.got + data
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                link.got = data
                continue
            head = data[:end]
            status, length = self._heads.get(head) or self._read(head)
            if len(data) < end + length:
                link.got = data
                continue
            link.got = b""
            answers.append((link, status, data))
        return answers

    def close(self) -> None:
        for link in self.links:
            link.sock.close()
        self._epoll.close()

    def _connect(self, link: Link) -> None:
        if link.fd >= 0:
            del self._by_fd[link.fd]
            link.sock.close()
        link.sock = socket.create_connection(("127.0.0.1", self._port))
        link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.sock.setblocking(False)
        link.fd = link.sock.fileno()
        link.got, link.rest = b"", None
        self._by_fd[link.fd] = link
        self._epoll.register(link.fd, _READ)

    def _send_rest(self, link: Link) -> None:
        assert link.rest is not None
        try:
            link.rest = link.rest[link.sock.send(link.rest) :]
        except BlockingIOError:
            return
        except OSError:
            return
        if not link.rest:
            link.rest = None
            self._epoll.modify(link.fd, _READ)

    def _read(self, head: bytes) -> tuple[int, int]:
        lines = head.lower().split(b"\r\n")
        length = [line.partition(b":")[2] for line in lines if line.startswith(b"content-length:")]
        if not length:
            raise RuntimeError(f"an answer without Content-Length: {head!r}")
        if len(self._heads) >= _HEADS:  # the date changes every second
            self._heads.clear()
        found = self._heads[head] = int(lines[0].split(b" ")[1]), int(length[0])
        return found


def closed(
    port: int,
    requests: Sequence[bytes],
    connections: int,
    seconds: float,
    warm: float = 1.0,
    spin: bool = False,
) -> dict[str, Any]:
    """Every connection asks again as soon as it is answered.

    Parameters
    ----------
    warm
        Seconds before those that count.
    spin
        Never sleep: an answer is seen when it arrives, not when the scheduler wakes this process.
    """
    client = Client(port, connections)
    timeout = 0.0 if spin else 0.1
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    turn, many = 0, len(requests)
    clock = time.perf_counter
    _quiet()
    for link in client.links:
        client.ask(link, requests[turn % many])
        turn += 1
    start = clock() + warm
    while clock() < start:
        for link, _, _ in client.poll(timeout):
            client.ask(link, requests[turn % many])
            turn += 1
    begin, used, end = clock(), time.process_time(), clock() + seconds
    now = begin
    while now < end:
        answers = client.poll(timeout)
        now = clock()
        for link, status, _ in answers:
            if status == 200:
                latencies.append(now - link.sent)
            else:
                statuses[status] = statuses.get(status, 0) + 1
            client.ask(link, requests[turn % many])
            turn += 1
    wall = now - begin
    used = time.process_time() - used
    client.close()
    return {
        "rate": len(latencies) / wall,
        "latency": summary(latencies),
        "errors": statuses,
        "generator_cpu": used / wall,
    }


def poisson(
    port: int,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    connections: int = 512,
    stop: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Requests arrive at random, whatever became of those before them.

    Latency counts from the moment at which a request was due, so that waiting for a free
    connection, or for this process, is part of it. Ends early once the file `stop` exists.
    Before the time begins every connection is answered once: until then the server may not have
    taken it, and what that costs comes once and not with every request.
    """
    random = np.random.default_rng(seed)
    client = Client(port, connections)
    opening = _open(client)
    idle = list(client.links)
    timeline = Timeline()
    waiting: deque[float] = deque()
    due_latency: dict[int, list[float]] = {}
    sent_latency: dict[int, list[float]] = {}
    late: list[float] = []
    advised = turn = 0
    gaps: deque[float] = deque()
    clock = time.perf_counter
    _quiet()
    begin = now = clock()
    end, arrival, look = begin + seconds, begin, begin
    while now < end or (len(idle) < connections and now < end + 5.0):
        if stop is not None and now > look:
            look = now + 0.2
            if stop.exists():
                end, stop = now, None
        while arrival <= now and arrival < end:
            waiting.append(arrival)
            if not gaps:
                gaps.extend(random.exponential(1 / rate, 4096).tolist())
            arrival += gaps.popleft()
        while waiting and idle:
            link = idle.pop()
            link.due = waiting.popleft()
            client.ask(link, requests[turn % len(requests)])
            late.append(link.sent - link.due)
            turn += 1
        answers = client.poll(0.0 if waiting or arrival - now < 0.001 else 0.001)
        now = clock()
        for link, status, data in answers:
            due_latency.setdefault(status, []).append(now - link.due)
            sent_latency.setdefault(status, []).append(now - link.sent)
            timeline.add(now - begin, status, now - (link.due if status == 200 else link.sent))
            if status == 503 and b"retry-after:" in data[:400].lower():
                advised += 1
            idle.append(link)
    wall = end - begin
    unanswered = connections - len(idle)
    client.close()
    return {
        "offered": turn / wall,
        "seconds": wall,
        "accepted": len(due_latency.get(200, ())) / wall,
        "counts": {status: len(times) for status, times in due_latency.items()},
        "unanswered": unanswered + len(waiting),
        "retry_after": advised,
        "accepted_latency": summary(due_latency.get(200, [])),
        "refusal_latency": summary(sent_latency.get(503, [])),
        "refusal_latency_from_due": summary(due_latency.get(503, [])),
        "generator_late": summary(late),
        "opening_seconds": opening,
        "timeline": timeline.lines(),
    }


class Timeline:
    """What was answered in every 50 ms, and the worst latency: shows when a server stalled."""

    STEP = 0.05
    COLUMNS = "seconds, accepted, refused, other, worst accepted ms, worst refused ms"

    def __init__(self) -> None:
        self._rows: list[list[float]] = []

    def add(self, at: float, status: int, latency: float) -> None:
        """An answer, `at` seconds after the beginning."""
        index = int(at / self.STEP)
        rows = self._rows
        while len(rows) <= index:
            rows.append([0, 0, 0, 0.0, 0.0])
        kind = {200: 0, 503: 1}.get(status, 2)
        row = rows[index]
        row[kind] += 1
        if kind < 2 and latency > row[3 + kind]:
            row[3 + kind] = latency

    def lines(self) -> list[str]:
        """A line of numbers for each step, in the order of `COLUMNS`."""
        return [
            f"{index * self.STEP:.2f} {row[0]} {row[1]} {row[2]} "
            f"{row[3] * 1e3:.1f} {row[4] * 1e3:.1f}"
            for index, row in enumerate(self._rows)
        ]


def _open(client: Client) -> float:
    """Have every connection answered once, one after another; the seconds that took."""
    begin = time.perf_counter()
    for link in client.links:
        client.ask(link, _HELLO)
        while not client.poll(1.0):
            if time.perf_counter() > begin + _OPENING:
                raise RuntimeError("the server does not answer on every connection")
    return time.perf_counter() - begin


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Count, median, 99th percentile and maximum."""
    if not seconds:
        return {"count": 0}
    median, p99 = np.percentile(seconds, [50, 99])
    return {
        "count": len(seconds),
        "median": float(median),
        "p99": float(p99),
        "max": float(max(seconds)),
    }


def _quiet() -> None:
    """A collection of garbage would be counted as the server's latency."""
    gc.collect()
    gc.freeze()
    gc.disable()
