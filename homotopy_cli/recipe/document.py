"""A recipe before validation: plain values, each with the place it came from."""

from dataclasses import dataclass, field
from typing import Any

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a recipe."""

    place: str  # `recipe.yaml:5`, or `--set optimizer.lr=abc`
    path: Path  # key path, () for the whole recipe
    what: str
    hint: str = ""
    order: int = 0  # position in the recipe, for sorting

    @property
    def message(self) -> str:
        """`place: key.path: what`; a place that already names the key does not repeat it."""
        key = dotted(self.path)
        if not key or self.place.startswith(f"--set {key}="):
            return f"{self.place}: {self.what}"
        return f"{self.place}: {key}: {self.what}"


@dataclass(frozen=True)
class Place:
    """Where a key and its value stand."""

    key: str  # label of the key
    value: str  # label of the value
    order: int  # sorts faults in reading order


@dataclass
class Document:
    """The plain content of a recipe and the place of every key path in it."""

    label: str  # how messages name the recipe
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """The place of `path`, or of the nearest section that holds it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return Place(self.label, self.label, 0)

    def add_fault(self, path: Path, what: str, hint: str = "", *, at_key: bool = False) -> None:
        """Record that the value (or the key) at `path` is wrong."""
        place = self.place(path)
        label = place.key if at_key else place.value
        self.faults.append(Fault(label, path, what, hint, place.order))

    def put(self, path: Path, value: Any, places: dict[Path, Place]) -> None:
        """Set the value at `path`; `places` are relative to `path` and replace what was there."""
        holder: Any = self.data
        for depth, part in enumerate(path[:-1]):
            if isinstance(holder, list):
                holder = holder[int(part)]
                continue
            inner = holder.get(part)
            if isinstance(inner, str) and depth == 0:
                inner = expand_shorthand(part, inner)
                holder[part] = inner
            if not isinstance(inner, dict | list):
                inner = {}
                holder[part] = inner
                if () in places:
                    self.places[path[: depth + 1]] = places[()]
            holder = inner
        last = path[-1]
        holder[int(last) if isinstance(holder, list) else last] = value
        size = len(path)
        self.places = {old: p for old, p in self.places.items() if old[:size] != path}
        self.places |= {(*path, *rest): place for rest, place in places.items()}


def expand_shorthand(section: str | int, text: str) -> dict[str, Any]:
    """The mapping that `text` is short for, so that `--set data.holdout=0` can add to it."""
    if section == "data" and text.lower().endswith(".npz"):
        return {"name": "npz", "path": text}
    return {"name": text}


def dotted(path: Path) -> str:
    """`optimizer.betas[1]`"""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out
