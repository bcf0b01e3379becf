"""YAML text -> Document: the YAML 1.2 core rules on top of PyYAML's scanner and composer.

PyYAML resolves scalars by YAML 1.1: `1e-3` is text, `no` is false, `12:30:45` is 45045,
`017` is 15, a key given twice silently wins. Here only the node tree is taken from it; each
node is turned into a plain value by the rules of yaml.org/spec/1.2.2 section 10.3, with its
line kept. Size and depth are counted with aliases expanded, so an alias bomb stops early.
"""

import math
import re
from typing import Any

import yaml

from homotopy_cli.errors import RecipeError
from homotopy_cli.recipe.document import Document, Fault, Path, Place

MAX_BYTES = 1_000_000  # our choice: a recipe is a page of text
MAX_DEPTH = 64
MAX_NODES = 20_000  # aliases expanded
_CORE = "tag:yaml.org,2002:"
_PLAIN = "?"
_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]+\Z")
_OCTAL_11 = re.compile(r"[-+]?0[0-9]+\Z")
_BASED = re.compile(r"0(?:o[0-7]+|x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_SCALAR_TAGS = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None)}


class _Loader(yaml.SafeLoader):
    """The scanner and composer only: plain scalars get the tag `?`, `_scalar` reads them."""

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else f"{_CORE}str"
        return f"{_CORE}{'seq' if kind is yaml.SequenceNode else 'map'}"


class _Unusable(Exception):
    """A value that is dropped from the document; its fault is recorded."""


def parse(raw: bytes, label: str) -> Document:
    """The document in `raw`; faults that do not stop the reading are collected in it.

    Raises:
        RecipeError: Not readable as one YAML mapping at all, with `label:line`.
    """
    if len(raw) > MAX_BYTES:
        raise RecipeError(
            f"{label}: {len(raw)} bytes are no recipe", hint=f"a recipe is below {MAX_BYTES} bytes"
        )
    text = _decode(raw, label)
    root = _compose(text, label)
    null = isinstance(root, yaml.ScalarNode) and root.tag == _PLAIN and _NULL.match(root.value)
    if root is None or null:
        raise RecipeError(
            f"{label}: the recipe is empty",
            hint="it needs model, data, optimizer and steps; `homotopy train` alone runs one",
        )
    line = root.start_mark.line + 1
    if not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "plain text"
        raise RecipeError(
            f"{label}:{line}: a recipe is a mapping of keys to values, this is {kind}",
            hint="write lines such as `steps: 500`",
        )
    return _Builder(label).build(root)


def parse_value(text: str, label: str) -> tuple[Any, dict[Path, Place], list[Fault]]:
    """One value by the same rules, for `--set key=VALUE`; every place in it is `label`."""
    root = _compose(text, label)
    if root is None:
        return None, {(): Place(label, label, -1)}, []
    builder = _Builder(label, lines=False)
    document = builder.build(root)
    return builder.result, {(): Place(label, label, -1), **document.places}, document.faults


def _decode(raw: bytes, label: str) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise RecipeError(f"{label}: is UTF-16, not UTF-8", hint="save the file as UTF-8")
    if b"\0" in raw:
        raise RecipeError(
            f"{label}: is a binary file, no recipe",
            hint="a recipe is YAML text; homotopy train --list shows some",
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = raw[error.start]
        guess = f" (in Latin-1: {chr(byte)!r})" if byte >= 0xA0 else ""
        raise RecipeError(
            f"{label}:{line}: byte 0x{byte:02x}{guess} is not UTF-8",
            hint=f"save the file as UTF-8: iconv -f LATIN1 -t UTF-8 {label} > utf8.yaml",
        ) from error


def _compose(text: str, label: str) -> yaml.Node | None:
    loader = None
    try:
        loader = _Loader(text)  # looks for unprintable characters at once
        return loader.get_single_node()
    except yaml.composer.ComposerError as error:
        if "single document" in str(error):
            line = error.problem_mark.line + 1
            raise RecipeError(
                f"{label}:{line}: a second document starts here",
                hint="one recipe per file: remove the line `---`",
            ) from error
        raise _syntax(error, text, label) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"{label}:{line}: character U+{ord(text[error.position]):04X} is not allowed in YAML",
            hint="remove it; a recipe is plain text",
        ) from error
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, text, label) from error
    except RecursionError as error:
        raise RecipeError(
            f"{label}: nested too deeply", hint=f"at most {MAX_DEPTH} levels"
        ) from error
    finally:
        if loader is not None:
            loader.dispose()


def _syntax(error: yaml.MarkedYAMLError, text: str, label: str) -> RecipeError:
    """A scanner's complaint in plain words."""
    mark = error.problem_mark or error.context_mark
    number = mark.line + 1 if mark else 1
    lines = text.splitlines()
    for near in (number, number - 1):
        if 1 <= near <= len(lines):
            indent = lines[near - 1][: len(lines[near - 1]) - len(lines[near - 1].lstrip())]
            if "\t" in indent:
                return RecipeError(
                    f"{label}:{near}: a tab indents this line; YAML allows only spaces",
                    hint=f"replace the tab in line {near} by spaces",
                )
    problem = " ".join((error.problem or str(error)).split())
    context = f" {' '.join(error.context.split())}" if error.context else ""
    hint = "check the colon, the quotes and the indentation of this line and the one above"
    if "undefined alias" in problem:
        hint = "an alias *name needs an anchor &name before it; quote text that starts with *"
    elif "'%'" in problem or "'@'" in problem or "'`'" in problem:
        hint = "put the value in quotes"
    elif "mapping values are not allowed" in problem:
        hint = "a value that contains `: ` needs quotes; a key must start at its section's column"
    return RecipeError(f"{label}:{number}: not YAML: {problem}{context}", hint=hint)


class _Builder:
    """Walks the node tree once; collects values, places and faults."""

    def __init__(self, label: str, *, lines: bool = True) -> None:
        self.document = Document(label)
        self.label = label
        self.lines = lines
        self.n_nodes = 0
        self.result: Any = None

    def build(self, root: yaml.Node) -> Document:
        try:
            self.result = self._value(root, (), 0)
        except _Unusable:
            self.result = {}
        if isinstance(self.result, dict):
            self.document.data = self.result
        return self.document

    def _at(self, node: yaml.Node) -> str:
        return f"{self.label}:{node.start_mark.line + 1}" if self.lines else self.label

    def _fault(self, node: yaml.Node, path: Path, what: str, hint: str = "") -> None:
        self.document.faults.append(Fault(self._at(node), path, what, hint, self._order(node)))

    def _value(self, node: yaml.Node, path: Path, depth: int) -> Any:
        self.n_nodes += 1
        if depth > MAX_DEPTH:
            raise RecipeError(
                f"{self._at(node)}: nested deeper than {MAX_DEPTH} levels",
                hint="an alias inside its own anchor nests for ever",
            )
        if self.n_nodes > MAX_NODES:
            raise RecipeError(
                f"{self.label}: more than {MAX_NODES} values once aliases are expanded",
                hint="a recipe has a few dozen; remove the aliases",
            )
        wanted = {yaml.MappingNode: "map", yaml.SequenceNode: "seq"}.get(type(node))
        tag = node.tag.removeprefix(_CORE)
        allowed = tag == wanted or (wanted is None and tag in _SCALAR_TAGS)
        if node.tag != _PLAIN and not (node.tag.startswith(_CORE) and allowed):
            spelled = f"!!{tag}" if node.tag.startswith(_CORE) else node.tag
            self._fault(
                node, path, f"tag {spelled} is refused", "a recipe holds plain values, no objects"
            )
            raise _Unusable
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, path, depth)
        return self._scalar(node, path)

    def _sequence(self, node: yaml.SequenceNode, path: Path, depth: int) -> list[Any]:
        items: list[Any] = []
        for index, item in enumerate(node.value):
            inner = (*path, index)
            self._mark(inner, item, item)
            try:
                items.append(self._value(item, inner, depth + 1))
            except _Unusable:
                items.append(None)
        return items

    def _mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        first: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key is None:
                continue
            inner = (*path, key)
            if key == "<<":
                self._fault(
                    key_node, inner, "merge keys are not part of YAML 1.2", "repeat the settings"
                )
                continue
            if key in first:
                lines = (first[key].start_mark.line + 1, key_node.start_mark.line + 1)
                where = f" (lines {lines[0]} and {lines[1]})" if self.lines else ""
                self._fault(key_node, inner, f"key given twice{where}", "keep one of the two")
                continue
            first[key] = key_node
            self._mark(inner, key_node, value_node)
            try:
                out[key] = self._value(value_node, inner, depth + 1)
            except _Unusable:
                out[key] = None
        return out

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._fault(node, path, "a key must be a single word", "write `key: value`")
            return None
        return node.value

    def _mark(self, path: Path, key: yaml.Node, value: yaml.Node) -> None:
        self.document.places[path] = Place(self._at(key), self._at(value), self._order(key))

    def _order(self, node: yaml.Node) -> int:
        """Reading order: by line, then by column."""
        mark = node.start_mark
        return mark.line * 1000 + min(mark.column, 999) if self.lines else -1

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text, tag = node.value, node.tag.removeprefix(_CORE)
        if tag == "str":
            return text
        if _OCTAL_11.match(text):
            base8 = f" or 0o{text.lstrip('+-0') or '0'}" if set(text) <= set("+-01234567") else ""
            self._fault(
                node,
                path,
                f"{text} starts with 0: octal in YAML 1.1, decimal in YAML 1.2",
                f"write {int(text)}{base8}, or quote it",
            )
            raise _Unusable
        value = _resolve(text)
        if tag == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if tag != _PLAIN and type(value) is not _SCALAR_TAGS[tag]:
            self._fault(node, path, f"{text!r} is no !!{tag}", "remove the tag")
            raise _Unusable
        return value


def _resolve(text: str) -> Any:
    """A plain scalar's value by the YAML 1.2 core schema."""
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text.lower() == "true"
    if _INT.match(text):
        # A number of thousands of digits would hit Python's conversion limit.
        return int(text) if len(text) < 400 else math.inf
    if _BASED.match(text):
        return int(text, 0)
    if _FLOAT.match(text):
        return float(text)
    if _SPECIAL.match(text):
        return float(text.replace(".", "", 1))
    return text
