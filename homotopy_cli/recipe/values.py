"""The scalar types of a recipe: strict, finite, and explained when they do not fit.

Pydantic's own coercions are too kind for a learning rate (`True` is 1.0, `'1e-3'` is 0.001,
NaN is a float), so each type here looks at the value first.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)


class Misfit(ValueError):
    """A value that does not fit, in our words; pydantic keeps it in the error's context."""

    def __init__(self, what: str, hint: str, path: tuple[str | int, ...]) -> None:
        super().__init__(what)
        self.what, self.hint, self.path = what, hint, path


def fault(what: str, hint: str = "", path: tuple[str | int, ...] = ()) -> Misfit:
    """A Misfit to raise; `path` names a key below the value being checked."""
    return Misfit(what, hint, path)


def closest(word: str, known: Iterable[str]) -> str:
    """The known name nearest to `word`, or "" when none is near."""
    names = {name.lower().replace("_", "").replace("-", ""): name for name in known}
    key = word.lower().replace("_", "").replace("-", "")
    match = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if match:
        return names[match[0]]
    longer = [name for short, name in names.items() if len(key) > 2 and short.startswith(key)]
    return longer[0] if len(longer) == 1 else ""


def closest_file(name: str, known: Iterable[str]) -> str:
    """The known file name nearest to `name` without its suffix, the same suffix first, or ""."""
    suffix = PurePath(name).suffix
    stems = {PurePath(n).stem: n for n in sorted(known, key=lambda n: PurePath(n).suffix == suffix)}
    return stems.get(closest(PurePath(name).stem, stems), "")


def shown(value: Any) -> str:
    """`value` as the recipe would write it, short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    whole = isinstance(value, float) and abs(value) < 1e15 and value.is_integer()
    text = str(int(value)) if whole else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def kind_of(value: Any) -> str:
    """What YAML calls it."""
    kinds = {dict: "a mapping", list: "a list", str: "text", bool: "true/false", float: "a number"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _text_for_number(value: str, wanted: str) -> Misfit:
    plain = value.strip()
    if plain.lower() in ("none", "null", "nil", "~", ""):
        return fault(f"{value!r} is text; write null", "null, or leave the key out")
    for candidate in (plain.replace("_", ""), plain.replace(",", ".", 1), plain.replace(",", "")):
        try:
            number = float(candidate)
        except ValueError:
            continue
        if not math.isfinite(number):
            return fault(f"{value!r} is not a finite number")
        return fault(f"{value!r} is text, not {wanted}", f"write {candidate}, without quotes")
    return fault(f"{value!r} is text, not {wanted}", "a number such as 0.001, 1e-3 or 20")


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise _text_for_number(value, "a number")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fault(f"{shown(value)} is {kind_of(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise fault(f"{shown(value)} is not a finite number")
    return number


def _integer(value: Any) -> int:
    if isinstance(value, str):
        raise _text_for_number(value, "a whole number")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fault(f"{shown(value)} is {kind_of(value)}, not a whole number")
    if isinstance(value, float) and not value.is_integer():
        near = f"write {round(value)}" if math.isfinite(value) else ""
        raise fault(f"{shown(value)} is not a whole number", near)
    if abs(value) >= 2**63:
        raise fault(f"{shown(value)} does not fit into 64 bits")
    return int(value)


def _flag(value: Any) -> bool:
    if isinstance(value, str):
        yes, no = ("yes", "on", "y", "true", "t"), ("no", "off", "n", "false", "f")
        word = value.strip().lower()
        meant = "true" if word in yes else "false" if word in no else "true or false"
        raise fault(f"{value!r} is text, not true or false", f"write {meant}")
    if not isinstance(value, bool):
        raise fault(f"{shown(value)} is {kind_of(value)}, not true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        quoted = f"write '{shown(value)}' in quotes" if not isinstance(value, dict | list) else ""
        raise fault(f"{shown(value)} is {kind_of(value)}, not text", quoted)
    if not value.strip():
        raise fault("is empty text")
    return value


def _below(limit: float, *, inclusive: bool) -> AfterValidator:
    def check(value: float) -> float:
        if value > limit or (value == limit and not inclusive):
            raise fault(
                f"{shown(value)} is too large", f"{'at most' if inclusive else 'below'} {limit:g}"
            )
        return value

    return AfterValidator(check)


def _above(limit: float, *, inclusive: bool) -> AfterValidator:
    def check(value: float) -> float:
        if value < limit or (value == limit and not inclusive):
            word = "at least" if inclusive else "greater than"
            raise fault(f"{shown(value)} is too small", f"{word} {limit:g}")
        return value

    return AfterValidator(check)


Real = Annotated[float, BeforeValidator(_number)]
NonNegative = Annotated[Real, _above(0, inclusive=True), Field(json_schema_extra={"minimum": 0})]
Positive = Annotated[
    Real, _above(0, inclusive=False), Field(json_schema_extra={"exclusiveMinimum": 0})
]
AtLeastOne = Annotated[Real, _above(1, inclusive=True), Field(json_schema_extra={"minimum": 1})]
Fraction = Annotated[  # 0 <= x < 1
    NonNegative, _below(1, inclusive=False), Field(json_schema_extra={"exclusiveMaximum": 1})
]
Percent = Annotated[
    NonNegative, _below(100, inclusive=True), Field(json_schema_extra={"maximum": 100})
]
Share = Annotated[  # 0 < x <= 1
    Positive, _below(1, inclusive=True), Field(json_schema_extra={"maximum": 1})
]
Integer = Annotated[int, BeforeValidator(_integer)]
Whole = Annotated[Integer, _above(0, inclusive=True), Field(json_schema_extra={"minimum": 0})]
Count = Annotated[Integer, _above(1, inclusive=True), Field(json_schema_extra={"minimum": 1})]
Flag = Annotated[bool, BeforeValidator(_flag)]
Text = Annotated[str, BeforeValidator(_text)]


class Spec(BaseModel):
    """A section of a recipe: unknown keys refused, null = left out, immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_means_left_out(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        free = cls.model_config.get("extra") == "allow"
        known = cls.model_fields
        return {k: v for k, v in value.items() if v is not None or not (free or k in known)}

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for what this section names: all but `name`, and nothing unset."""
        return {
            key: value
            for key, value in {**self.__dict__, **(self.__pydantic_extra__ or {})}.items()
            if key != "name" and value is not None
        }


USER, TARGET = "user code", "target"  # union tags; no key of a recipe has these names


def choice(
    specs: Mapping[str, type[Spec]], *, user: type[Spec] | None = None, target: bool = False
) -> Any:
    """The type "one of `specs`, by its `name`".

    Args:
        specs: Settings class of each name.
        user: Settings class of a name with a colon: the user's own code.
        target: Whether plain text is allowed, and stays text.
    """

    def tag(value: Any) -> Any:
        if target and isinstance(value, str):
            return TARGET
        name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
        return USER if user is not None and isinstance(name, str) and ":" in name else name

    tagged = [Annotated[spec, Tag(name)] for name, spec in specs.items()]
    if user is not None:
        tagged.append(Annotated[user, Tag(USER)])
    if target:
        tagged.append(Annotated[Text, Tag(TARGET)])
    return Annotated[reduce(or_, tagged), Discriminator(tag)]
