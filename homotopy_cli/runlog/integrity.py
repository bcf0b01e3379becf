"""Is this file what homotopy wrote, byte for byte? And will the HDF5 library come back from it?

The fold seals each image: a root attribute `checksum` of 12 bytes, a mark that is no UTF-8 text
and the CRC32 of the file with those last 4 bytes zeroed. An intact file is safe to open here;
any other is opened in a process of its own (isolate.py).
"""

import struct
import zlib
from enum import Enum
from pathlib import Path

import numpy as np

from homotopy_cli.errors import LogError

SEAL_MARK = b"\x93HRC\xff32\x8a"
SEAL = np.frombuffer(SEAL_MARK + bytes(4), "u1")
_HEAP_OBJECT = struct.Struct("<HHIQ")  # index, references, reserved, size
_MAX_BYTES = 2**30  # larger files are not read into memory for this


class Integrity(Enum):
    INTACT = "intact"
    CHANGED = "changed"  # sealed once, and altered or damaged since
    UNSEALED = "unsealed"  # by another program


def sealed(image: bytes) -> bytes:
    """Fill in the checksum of an image that holds SEAL as an attribute."""
    at = image.index(SEAL_MARK) + len(SEAL_MARK)
    return b"".join([image[:at], _crc(image, at).to_bytes(4, "little"), image[at + 4 :]])


def _crc(data: bytes, at: int) -> int:
    view = memoryview(data)
    return zlib.crc32(view[at + 4 :], zlib.crc32(bytes(4), zlib.crc32(view[:at])))


def examine(path: Path) -> Integrity:
    """Compare a file with its seal.

    Raises:
        LogError: It is not intact, and holds what makes the HDF5 library loop for ever.
    """
    with open(path, "rb") as stream:
        data = stream.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        return Integrity.UNSEALED
    at = data.find(SEAL_MARK) + len(SEAL_MARK)
    found = at >= len(SEAL_MARK) and at + 4 <= len(data)
    if found and data[at : at + 4] == _crc(data, at).to_bytes(4, "little"):
        return Integrity.INTACT
    if _has_endless_heap(data):
        raise LogError(
            f"{path}: damaged HDF5 file (a global heap without end)",
            hint="continue from the last checkpoint, or copy the file again",
        )
    return Integrity.CHANGED if found else Integrity.UNSEALED


def _has_endless_heap(data: bytes) -> bool:
    """HDF5 (2.0 and before) walks a heap's objects by their sizes; free space of size 0 with
    bytes behind it is where it stays. HDF5 File Format Specification, III.E."""
    at = -1
    while (at := data.find(b"GCOL\x01", at + 1)) >= 0:
        end = min(at + int.from_bytes(data[at + 8 : at + 16], "little"), len(data))
        place = at + 16
        while place + _HEAP_OBJECT.size <= end:
            index, _, _, size = _HEAP_OBJECT.unpack_from(data, place)
            if index == 0:
                if size < _HEAP_OBJECT.size:
                    return True
                place += size
            else:
                place += _HEAP_OBJECT.size + (size + 7) // 8 * 8
    return False
