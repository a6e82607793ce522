"""Images handed to a server on the same host through memory instead of the socket.

A region of /dev/shm is cut into slots of equal size, each with room for one image as a serialized
BYTES tensor (its length in 4 bytes, then the bytes). The server maps the region once and reads the
slots that requests name.
"""

import mmap
import os
import secrets
import struct
import threading
import weakref
from dataclasses import dataclass

__all__ = ["Region", "SharedMemory", "Slot"]

_FOLDER = "/dev/shm"
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class SharedMemory:
    """How much memory is shared with the server; `slots * slot_bytes` is taken at once.

    An image that is larger than a slot, or finds none free, travels over the connection.

    Attributes:
        slots: images in memory at once.
        slot_bytes: largest image; 4 MiB hold 1024 x 1024 pixels uncompressed.
    """

    slots: int = 32
    slot_bytes: int = 4 * 2**20

    def __post_init__(self) -> None:
        if self.slots < 1 or self.slot_bytes <= _LENGTH.size:
            raise ValueError(
                f"SharedMemory has {self.slots} slots of {self.slot_bytes} bytes; "
                f"expected at least 1 slot of more than {_LENGTH.size} bytes."
            )


@dataclass(frozen=True)
class Slot:
    """Where an image lies: bytes `offset` to `offset + byte_size` of the region `region`."""

    region: str
    offset: int
    byte_size: int


class Region:
    """A piece of shared memory, gone after `close` or with the process. Thread-safe.

    Attributes:
        name: by which the server and this client call it; also its name in /dev/shm.
        byte_size: its size.
    """

    def __init__(self, size: SharedMemory) -> None:
        """Take the memory.

        Raises:
            OSError: the system has no /dev/shm, or not enough room there.
        """
        self.name = f"ma-agiqa-client-{secrets.token_hex(8)}"
        self.byte_size = size.slots * size.slot_bytes
        self._slot_bytes = size.slot_bytes
        path = os.path.join(_FOLDER, self.name)
        self._map = _reserve(path, self.byte_size)
        self._lock = threading.Lock()
        self._free = [slot * size.slot_bytes for slot in range(size.slots)]
        self._remove = weakref.finalize(self, os.unlink, path)

    def put(self, image: bytes) -> Slot | None:
        """Copy an image into a free slot; None if it does not fit or no slot is free."""
        needed = _LENGTH.size + len(image)
        with self._lock:
            if needed > self._slot_bytes or not self._free:
                return None
            offset = self._free.pop()
        self._map[offset : offset + needed] = _LENGTH.pack(len(image)) + image
        return Slot(self.name, offset, needed)

    def give_back(self, slot: Slot) -> None:
        """Free a slot whose request is over."""
        with self._lock:
            self._free.append(slot.offset)

    def close(self) -> None:
        """Remove the region's name; its memory goes with the last process that maps it."""
        self._remove()


def _reserve(path: str, byte_size: int) -> mmap.mmap:
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except OSError as error:
        raise OSError(
            f"Shared memory needs {_FOLDER}, which cannot be written ({error.strerror}). "
            "Connect without shared_memory."
        ) from error
    try:
        os.posix_fallocate(file, 0, byte_size)  # else a write without room would kill the process
        return mmap.mmap(file, byte_size)
    except OSError as error:
        os.unlink(path)
        raise OSError(
            f"{_FOLDER} has no room for {byte_size:,} bytes ({error.strerror}). Give shared_memory "
            "fewer or smaller slots, or make it larger (docker run --shm-size)."
        ) from error
    finally:
        os.close(file)
