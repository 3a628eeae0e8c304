from __future__ import annotations

import pytest

from strop.workers import ChildDied, ChildError, ChildFailed, Pool


def test_a_role_keeps_its_child_until_it_dies() -> None:
    with Pool(env={"STROP_TEST_VALUE": "pool"}) as pool:
        build = pool.child("build")
        assert build.name == "build"
        assert build.call("handlers:process")["value"] == "pool"
        assert pool.child("time") is not build
        with pytest.raises(ChildFailed):
            build.call("handlers:fail", message="no")
        assert pool.child("build") is build
        with pytest.raises(ChildDied):
            build.call("handlers:segfault")
        replaced = pool.child("build")
        assert replaced is not build
        assert replaced.call("handlers:echo", value=1) == 1


def test_closing_ends_every_child() -> None:
    pool = Pool()
    children = [pool.child("a"), pool.child("b")]
    pool.close()
    pool.close()
    assert not any(child.alive for child in children)
    with pytest.raises(ChildError, match="closed"):
        pool.child("a")
