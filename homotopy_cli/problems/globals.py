"""The globals a pickle names, read from its opcodes without running it."""

import pickletools
import re
from dataclasses import dataclass

from homotopy_cli.errors import CheckpointError, first_line

# Modules whose functions act on the machine. Nothing is ever called by name from a pickle here;
# this list decides only whether a file is refused in words or read around.
_ACTING = frozenset(
    re.findall(
        r"\S+",
        """
        __builtin__ _ctypes _io _pickle _thread asyncio bdb builtins cProfile cffi cloudpickle code
        codeop commands ctypes dill distutils ensurepip ftplib functools gc http imp importlib
        inspect io itertools marshal multiprocessing nt ntpath numpy.f2py numpy.testing operator os
        pdb pickle pip pkgutil platform popen2 posix posixpath profile pty requests runpy setuptools
        shelve shutil signal site smtplib socket subprocess sys telnetlib tempfile threading timeit
        torch._dynamo torch._inductor torch.hub torch.jit torch.serialization torch.utils
        torch.utils.cpp_extension trace types urllib webbrowser zipimport
        """,
    )
)
_DATA = frozenset(
    re.findall(
        r"\S+",
        """
        bool bytearray bytes complex dict enumerate float frozenset getattr int list long object
        range reversed set slice str tuple type unicode xrange zip
        """,
    )
)
_HARMLESS = frozenset(
    {
        ("functools", "partial"),
        ("torch.serialization", "_get_layout"),
        ("types", "SimpleNamespace"),
        ("types", "MappingProxyType"),
        ("io", "BytesIO"),
        ("_io", "BytesIO"),
        ("operator", "itemgetter"),
        ("torch.utils.data.sampler", "RandomSampler"),
    }
)


@dataclass(frozen=True)
class Scan:
    """What the opcodes say."""

    names: tuple[str, ...]  # "module.name" of every global, in order, once
    acting: tuple[str, ...]  # those that would act on the machine


def scan(pickle: bytes, path: object) -> Scan:
    """Every global that one pickle names.

    Raises:
        CheckpointError: The bytes are no pickle, or a memo index is out of any proportion (it
            would make the reader reserve gigabytes).
    """
    found: dict[tuple[str, str], None] = {}
    pushed: list[str] = []  # strings in the order they were pushed
    memo: dict[int, str | None] = {}
    top: str | None = None  # the last object pushed, if it is a string
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            name = opcode.name
            if name in ("BINPUT", "LONG_BINPUT", "PUT"):
                if int(argument) > len(pickle):
                    raise ValueError(f"memo index {argument}")
                memo[int(argument)] = top
                continue
            if name == "MEMOIZE":
                memo[len(memo)] = top
                continue
            if name in ("GLOBAL", "INST"):
                module, _, attribute = str(argument).partition(" ")
                found[(module, attribute)] = None
                top = None
            elif name == "STACK_GLOBAL":
                if len(pushed) >= 2:
                    found[(pushed[-2], pushed[-1])] = None
                top = None
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                top = memo.get(int(argument))
            else:
                top = argument if isinstance(argument, str) else None
            if top is not None:
                pushed.append(top)
    except Exception as error:  # pickletools raises many kinds for bytes that are no pickle
        raise CheckpointError(
            f"{path}: damaged: its pickle cannot be parsed ({first_line(error)})",
            hint="copy or download the file again",
        ) from error
    names = [_modern(module, attribute) for module, attribute in found]
    return Scan(
        tuple(f"{module}.{attribute}" for module, attribute in names),
        tuple(f"{m}.{a}" for m, a in names if is_acting(m, a)),
    )


def is_acting(module: str, name: str) -> bool:
    """The global could do more than build an object."""
    if (module, name) in _HARMLESS:
        return False
    if module in ("builtins", "__builtin__"):
        return name not in _DATA and not name.endswith(("Error", "Exception", "Warning"))
    return module in _ACTING or module.split(".")[0] in _ACTING - {"torch", "numpy"}


def _modern(module: str, name: str) -> tuple[str, str]:
    """Python 2's names of the builtins, as pickle protocol 2 writes them."""
    return ("builtins" if module == "__builtin__" else module), name
