"""Regions of shared memory: what lies where, and that nothing stays behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ma_agiqa_client import SharedMemory
from ma_agiqa_client._wire.shared_memory import Region


@pytest.fixture
def region():
    region = Region(SharedMemory(slots=2, slot_bytes=4096))
    yield region
    region.close()


def file(region) -> Path:
    return Path("/dev/shm", region.name)


def test_an_image_lies_where_its_slot_says(region):
    first, second = region.put(b"abc"), region.put(b"defgh")
    content = file(region).read_bytes()
    assert len(content) == region.byte_size == 8192
    assert content[first.offset :][: first.byte_size] == b"\3\0\0\0abc"
    assert content[second.offset :][: second.byte_size] == b"\5\0\0\0defgh"


def test_slots_are_lent_and_given_back(region):
    first, second = region.put(b"a"), region.put(b"b")
    assert first.offset != second.offset
    assert region.put(b"c") is None
    region.give_back(first)
    assert region.put(b"c").offset == first.offset


def test_an_image_must_fit_its_slot(region):
    assert region.put(bytes(4093)) is None
    assert region.put(bytes(4092)).byte_size == 4096


def test_nothing_stays_after_close(region):
    assert file(region).exists()
    region.close()
    region.close()
    assert not file(region).exists()


def test_only_this_user_may_read_it(region):
    assert file(region).stat().st_mode & 0o777 == 0o600


def test_nothing_stays_after_a_process_that_forgot_to_close():
    code = (
        "from ma_agiqa_client._wire.shared_memory import Region, SharedMemory\n"
        "print(Region(SharedMemory(1, 4096)).name)"
    )
    name = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert name.startswith("ma-agiqa-client-")
    assert name not in os.listdir("/dev/shm")


def test_more_than_there_is_room_for_is_refused_and_leaves_nothing():
    before = set(os.listdir("/dev/shm"))
    with pytest.raises(OSError, match="fewer or smaller slots"):
        Region(SharedMemory(slots=1, slot_bytes=2**50))
    assert set(os.listdir("/dev/shm")) <= before


def test_sizes_are_positive():
    with pytest.raises(ValueError, match="slots"):
        SharedMemory(slots=0)
    with pytest.raises(ValueError, match="bytes"):
        SharedMemory(slot_bytes=4)
