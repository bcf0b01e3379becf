"""The append-only journal: framed records, one write() each, readable up to any torn tail.

A frame is magic, payload length u4, CRC32 u4, payload. The first record is the header: run,
layers, columns and provenance, so that the journal alone rebuilds the log.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from homotopy_cli.runlog import faults

MAGIC = b"HJR1"
FRAME = struct.Struct("<4sII")
MAX_PAYLOAD = 256 * 2**20  # above any real record; a larger length is damage


def journal_path(path: Path) -> Path:
    return path.with_name(path.name + ".journal")


def frame(payload: bytes) -> bytes:
    return FRAME.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload


class Scan:
    """Iterate over the payloads of a journal's bytes, skipping what is damaged.

    After the iteration, `end` is the offset behind the last good record, `damaged` the number
    of damaged stretches with good records behind them, and `torn` the bytes after `end`.
    """

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.raw = data
        self.end = 0
        self.damaged = 0
        # A crafted file could hold a magic in every fourth byte: bound the work of looking for
        # the next good record to a few passes over the file.
        self._search_budget = 4 * len(data) + 2**20

    @property
    def torn(self) -> int:
        return len(self.data) - self.end

    def __iter__(self) -> Iterator[memoryview]:
        offset = 0
        while offset < len(self.data):
            payload = self._payload(offset)
            if payload is None:
                found = self._next_good(offset + 1)
                if found is None:
                    return
                self.damaged += 1
                offset = found
                continue
            offset += FRAME.size + len(payload)
            self.end = offset
            yield payload

    def _payload(self, offset: int) -> memoryview | None:
        if offset + FRAME.size > len(self.data):
            return None
        magic, length, crc = FRAME.unpack_from(self.data, offset)
        start = offset + FRAME.size
        if magic != MAGIC or length > MAX_PAYLOAD or start + length > len(self.data):
            return None
        payload = self.data[start : start + length]
        return payload if zlib.crc32(payload) == crc else None

    def _next_good(self, offset: int) -> int | None:
        while (offset := self.raw.find(MAGIC, offset)) >= 0 and self._search_budget > 0:
            if self._payload(offset) is not None:
                return offset
            length = int.from_bytes(self.data[offset + 4 : offset + 8], "little")
            self._search_budget -= FRAME.size + min(length, len(self.data) - offset)
            offset += 1
        return None


class Journal:
    """An open, locked journal at its good end.

    Args:
        fd: Descriptor opened for appending, locked by this process.
        path: Where it lies.
        header: Payload of the first record; written here.
    """

    def __init__(self, fd: int, path: Path, header: bytes) -> None:
        self.fd = fd
        self.path = path
        self._torn: int | None = None  # where a partly written record begins
        os.ftruncate(fd, 0)
        self.append(frame(header))
        os.fsync(fd)
        self._header_size = os.fstat(fd).st_size

    def append(self, data: bytes) -> None:
        """Write whole frames with one write(); all of them or none.

        Raises:
            OSError: Nothing was added; a partly written record was cut off again, or will be
                before the next one.
        """
        if self._torn is not None:
            self._cut()
        start = os.fstat(self.fd).st_size
        faults.reach("journal.write")
        if faults.due("journal.torn"):
            os.write(self.fd, data[: len(data) // 2])
            faults.die()
        try:
            written = os.write(self.fd, data)
            while written < len(data):  # a full disk: the next write says why
                self._torn = start
                written += os.write(self.fd, data[written:])
        except OSError:
            if self._torn is not None:
                self._cut()
            raise
        self._torn = None
        faults.reach("journal.written")

    def _cut(self) -> None:
        """Cut off half a record: later ones would hide behind it."""
        os.ftruncate(self.fd, self._torn)
        self._torn = None

    def reset(self) -> None:
        """Cut back to the header: every record is in run.h5 now. A kill on either side is
        harmless, because run.h5 stores the number of the last record that it contains."""
        faults.reach("journal.reset")
        os.ftruncate(self.fd, self._header_size)
        self._torn = None
        faults.reach("journal.cut")

    def sync(self) -> None:
        os.fdatasync(self.fd)

    def remove(self) -> None:
        os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Release the lock; the file stays."""
        os.close(self.fd)
