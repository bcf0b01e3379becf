"""Damaged logs -> `homotopy report`: a page or one error, never a traceback, never a hang.

The test suite runs a part; all of it:

    python tests/report/log_fuzz.py --cases 2000
"""

import argparse
import contextlib
import io
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np

from homotopy_cli.cli.app import run

REPOSITORY = Path(__file__).parent.parent.parent
ORIGINAL = REPOSITORY / "sample_runs" / "quickstart" / "run.h5"
SLOWEST = 60.0  # seconds for one log; a healthy one takes half of one
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e308, -1e308, 1e-320)


def truncated(path: Path, chosen: random.Random) -> None:
    """Cut anywhere, the first bytes and the last more often."""
    data = path.read_bytes()
    where = chosen.choice((chosen.randrange(64), chosen.randrange(len(data)), len(data) - 1))
    path.write_bytes(data[:where])


def flipped(path: Path, chosen: random.Random) -> None:
    """One to 64 bits, half of the time near the front where the structure is."""
    data = bytearray(path.read_bytes())
    reach = min(len(data), chosen.choice((4096, len(data))))
    for _ in range(chosen.choice((1, 4, 64))):
        data[chosen.randrange(reach)] ^= 1 << chosen.randrange(8)
    path.write_bytes(data)


def overwritten(path: Path, chosen: random.Random) -> None:
    """A run of bytes with one value, or eight bytes that make a huge length or address."""
    data = bytearray(path.read_bytes())
    at = chosen.randrange(len(data))
    filler = chosen.choice(
        (b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, bytes(300), b"</script>")
    )
    data[at : at + len(filler)] = filler
    path.write_bytes(data)


def _datasets(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(
        lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
    )
    return names


def missing(path: Path, chosen: random.Random) -> None:
    """Some datasets, a group, or attributes are not there."""
    with h5py.File(path, "r+") as file:
        names = _datasets(file)
        for name in chosen.sample(names, chosen.choice((1, 3, len(names) // 2))):
            del file[name]
        for key in chosen.sample(list(file.attrs), chosen.choice((0, 1, 3))):
            del file.attrs[key]


def retyped(path: Path, chosen: random.Random) -> None:
    """Datasets of another type or rank: text, records, complex, groups, empty."""
    with h5py.File(path, "r+") as file:
        for name in chosen.sample(_datasets(file), chosen.choice((1, 2, 5))):
            n = max(1, file[name].size)
            del file[name]
            kind = chosen.randrange(9)
            if kind == 0:
                file[name] = "a text </script>"
            elif kind == 1:
                file[name] = np.array(["<b>", "\u202e\x1b[31m"] * n, dtype=object)
            elif kind == 2:
                file.create_group(name)
            elif kind == 3:
                file[name] = h5py.Empty("f8")
            elif kind == 4:
                file[name] = np.zeros(n, [("a", "f8"), ("b", "i4")])
            elif kind == 5:
                file[name] = np.zeros((n, 2, 2))
            elif kind == 6:
                file[name] = np.float64(chosen.choice(SPECIAL))
            else:
                file[name] = np.zeros(n, chosen.choice(("c8", "bool", "u1", "f2", ">i4", "S3")))


def ragged(path: Path, chosen: random.Random) -> None:
    """Columns shorter, longer or empty; axes that run backwards or repeat."""
    with h5py.File(path, "r+") as file:
        for name in chosen.sample(_datasets(file), chosen.choice((1, 3, 8))):
            values = file[name][()]
            if not isinstance(values, np.ndarray) or not values.ndim:
                continue
            how = chosen.randrange(5)
            changed = (
                values[: len(values) // 2],
                np.concatenate([values, values]),
                values[:0],
                values[::-1],
                np.repeat(values[:1], len(values), axis=0),
            )[how]
            kind = h5py.string_dtype() if values.dtype == object else values.dtype
            del file[name]
            file.create_dataset(name, data=changed, dtype=kind)


def odd_values(path: Path, chosen: random.Random) -> None:
    """Numbers no training makes, texts that are no JSON, attributes of another type."""
    with h5py.File(path, "r+") as file:
        for name in chosen.sample(_datasets(file), chosen.choice((1, 3, 8))):
            item = file[name]
            if item.dtype.kind == "f" and item.size:
                item[...] = np.random.default_rng(chosen.randrange(999)).choice(SPECIAL, item.shape)
            elif item.dtype.kind in "iu" and item.size:
                item[...] = np.array(chosen.choice((0, -1, 2**62))).astype(item.dtype)
            elif item.dtype == object and not item.shape:
                item[()] = chosen.choice(("{", "[1]", "null", "\x01", "λ" * 9999, '{"a": 1e999}'))
        key = chosen.choice(list(file.attrs))
        file.attrs[key] = chosen.choice(([1, 2], 1.5, b"\xff\xfe", -3, "\x1b[31m", "2.0"))


MUTATIONS = (truncated, flipped, overwritten, missing, retyped, ragged, odd_values)


class NotJson(ValueError):
    """A token that strict JSON does not have."""


def _strict(name: str) -> None:
    raise NotJson(name)


def verdict_on(path: Path) -> str:
    """ "page" or "refused"; an AssertionError if the command did anything else."""
    page, summary, metrics = (path.with_suffix(end) for end in (".html", ".md", ".json"))
    for old in (page, summary, metrics):
        old.unlink(missing_ok=True)
    out, err = io.StringIO(), io.StringIO()
    began = time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["report", str(path), "--markdown", str(summary), "--json", str(metrics)])
    said = err.getvalue()
    assert time.perf_counter() - began < SLOWEST, "too slow"
    assert "Traceback" not in said
    if code == 2:
        assert not (page.exists() or summary.exists()), "refused, and yet a page"
        assert re.fullmatch(r"error: [^\n]+\nhint:  [^\n]+\n", said), said
        return "refused"
    assert code == 0, f"exit code {code}: {said}"
    text = page.read_text(encoding="utf-8")
    assert text.rstrip().endswith("</html>")
    assert len(re.findall(r"<script[ >]", text)) == 3, "a name opened a script"
    data = re.search(r'id="homotopy-data">(.*?)</script>', text, re.S)
    assert data is not None
    for document in (data[1], metrics.read_text(encoding="utf-8")):
        json.loads(document, parse_constant=_strict)
    assert summary.stat().st_size <= 64_000
    return "page"


def fuzz(cases: range, *, original: Path = ORIGINAL) -> Counter[str]:
    """Mutate and report; what came of it, by mutation.

    Raises:
        AssertionError: With the numbers of the cases, so that each can be run again alone.
    """
    found: Counter[str] = Counter()
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        for case in cases:
            chosen = random.Random(case)
            mutate = MUTATIONS[case % len(MUTATIONS)]
            shutil.copyfile(original, path)
            mutate(path, chosen)
            try:
                found[f"{mutate.__name__}: {verdict_on(path)}"] += 1
            except AssertionError as error:
                failed.append(f"case {case} ({mutate.__name__}): {error}")
    assert not failed, "\n".join(failed)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    began = time.perf_counter()
    found = fuzz(range(arguments.first, arguments.first + arguments.cases))
    for outcome, n in sorted(found.items()):
        print(f"{n:6d}  {outcome}")
    print(f"{arguments.cases} damaged logs in {time.perf_counter() - began:.0f} s, none crashed")


if __name__ == "__main__":
    sys.exit(main())
