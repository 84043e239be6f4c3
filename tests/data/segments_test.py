"""The segments of a source, and who prepares which."""

import threading
import time
from pathlib import Path

import pytest

from kronecker.data import segments, sources
from kronecker.runtime import locks


@pytest.mark.parametrize(
    ("sizes", "least", "expected"),
    [
        ([5, 5, 5, 5], 10, [range(0, 2), range(2, 4)]),
        ([5, 5, 5], 10, [range(0, 2), range(2, 3)]),
        ([9, 1, 9, 1], 10, [range(0, 2), range(2, 4)]),
        ([5, 5, 5, 5, 5], 10, [range(0, 2), range(2, 4), range(4, 5)]),
        ([30, 1, 2], 10, [range(0, 1), range(1, 3)]),
        ([1, 1], 10, [range(0, 2)]),
        ([0], 10, [range(0, 1)]),
        ([], 10, []),
        ([1] * 300, 301, [range(0, 300)]),
    ],
)
def test_a_segment_ends_with_the_file_that_fills_it(sizes: list[int], least: int, expected: list[range]):
    assert segments.cut([sources.Unit(str(size), size, iter) for size in sizes], least) == expected


def test_the_second_pass_waits_for_segments_that_others_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    claimed: list[int] = []
    worker = threading.Thread(target=lambda: claimed.extend(segments.claims(tmp_path, 2)), daemon=True)
    with locks.locked(tmp_path / "00001"):
        worker.start()
        while worker.is_alive() and "waiting for it" not in caplog.text:
            time.sleep(0.01)
    worker.join()
    assert claimed == [0, 0, 1]


def test_segments_that_others_hold_come_after_those_that_are_free(tmp_path: Path):
    with locks.locked(tmp_path / "00001"):
        claims = segments.claims(tmp_path, 3)
        assert [next(claims), next(claims)] == [0, 2]
        assert next(claims) == 0  # the second pass, which would wait for the other
    assert list(claims) == [1, 2]


def test_a_segment_is_held_while_it_is_worked_on_and_no_longer(tmp_path: Path):
    for number in segments.claims(tmp_path, 2):
        for other in range(2):
            with locks.locked(tmp_path / f"{other:05d}", wait=False) as mine:
                assert (mine is None) == (other == number)
