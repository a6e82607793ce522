"""Hashes of files: read once, and again after every kind of change."""

import hashlib
import os

import pytest

from ma_agiqa.file_hashes import FileHashes

LONG_AGO = 10**18


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that was written long ago, as far as the hashes know."""
    monkeypatch.setattr("ma_agiqa.file_hashes._SETTLED_NS", -(10**18))
    path = tmp_path / "a file"
    path.write_bytes(b"one")
    return path


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def reads(monkeypatch):
    """Counts the files that are read."""
    seen = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda f, n: seen.append(f.name) or digest(f, n))
    return seen


def test_an_unchanged_file_is_read_once(file, tmp_path, monkeypatch):
    seen = reads(monkeypatch)
    for _ in range(2):
        hashes = FileHashes(tmp_path / "cache" / "hashes.json")
        assert hashes.sha256(file) == hashes.sha256(os.path.relpath(file)) == sha256(b"one")
        hashes.save()
    assert len(seen) == 1


@pytest.mark.parametrize("change", ["content", "time", "file"])
def test_a_changed_file_is_read_again(file, tmp_path, monkeypatch, change):
    hashes = FileHashes(tmp_path / "hashes.json")
    hashes.sha256(file)
    before = file.stat()
    if change == "file":  # another file under the name, of the same size and time
        (tmp_path / "new").write_bytes(b"two")
        os.replace(tmp_path / "new", file)
    elif change == "content":
        file.write_bytes(b"two")
    if change != "time":
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert hashes.sha256(file) == sha256(b"two")
    else:
        os.utime(file, ns=(LONG_AGO, LONG_AGO))
        seen = reads(monkeypatch)
        assert hashes.sha256(file) == sha256(b"one")
        assert len(seen) == 1


def test_a_file_that_was_just_written_is_not_trusted(tmp_path, monkeypatch):
    (tmp_path / "new").write_bytes(b"one")
    hashes, seen = FileHashes(tmp_path / "hashes.json"), reads(monkeypatch)
    hashes.sha256(tmp_path / "new")
    hashes.sha256(tmp_path / "new")
    assert len(seen) == 2


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_damaged_cache_is_empty(file, tmp_path, text):
    (tmp_path / "hashes.json").write_text(text)
    assert FileHashes(tmp_path / "hashes.json").sha256(file) == sha256(b"one")


def test_a_cache_that_cannot_be_written_costs_time_only(file, tmp_path):
    (tmp_path / "taken").write_text("a file")
    hashes = FileHashes(tmp_path / "taken" / "hashes.json")
    hashes.sha256(file)
    hashes.save()
