"""What is told of an inference by the headers of its request."""

from __future__ import annotations

import pytest

from strop.serve.inference import _coding


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (b"gzip", b"gzip"),
        (b"deflate, gzip", b"deflate"),
        (b"gzip;q=0.5, deflate;q=0.8", b"deflate"),
        (b"GZIP ; q=1.0 , br", b"gzip"),
        (b"gzip;q=0, deflate;q=0.000", b""),
        (b"gzip;q=0.00,deflate;q=0.001", b"deflate"),
        (b"gzip;q=high", b""),
        (b"gzip;q=nan", b""),
        (b"identity, br", b""),
        (b"", b""),
    ],
)
def test_the_coding_that_the_client_likes_best(accepted: bytes, coding: bytes) -> None:
    assert _coding(accepted) == coding


def test_what_clients_say_every_time_is_read_once() -> None:
    _coding.cache_clear()
    for _ in range(3):
        _coding(b"gzip, deflate")
    assert (_coding.cache_info().misses, _coding.cache_info().hits) == (1, 2)
