"""The expression language of gates: parsed with `ast`, walked over a whitelist of nodes.

Nothing is passed to eval. Every name is looked up before anything is decided, so a misspelt
metric is an error even where `and` would not have needed it.
"""

import ast
import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from homotopy_cli.errors import HomotopyError

MAX_LENGTH, MAX_NODES = 1000, 200
_SIGNED = re.compile(r"(?<=[<>=])\s*([+-]\s*\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*%")
_PLAIN = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*%(?!\s*[\w(.])")
_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"abs": abs, "min": min, "max": max}
_RELATIVE = "__relative__"
_FORMS = "metrics, baseline.METRIC, layers.max(COLUMN), numbers, + - * /, comparisons, and or not"


class NotEvaluable(Exception):
    """A name stands for nothing that was measured; the message says which and why."""


class Walker:
    """One expression over one set of names; `used` collects the values it was decided on."""

    def __init__(self, expression: str, names: Mapping[str, Any], baseline: str) -> None:
        self.expression, self.names, self.baseline = expression, names, baseline
        self.used: dict[str, float | None] = {}

    def run(self) -> Any:
        if len(self.expression) > MAX_LENGTH:
            raise self._error(f"longer than {MAX_LENGTH} characters")
        text = _SIGNED.sub(lambda m: f" {_RELATIVE}({m[1].replace(' ', '')})", self.expression)
        text = _PLAIN.sub(lambda m: f"({m[1]}*0.01)", text)
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
            raise self._error("not an expression") from fault
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            raise self._error("too long an expression")
        self._check(tree.body)
        return self._value(tree.body)

    def _error(self, what: str) -> HomotopyError:
        shown = self.expression if len(self.expression) <= 120 else self.expression[:117] + "..."
        return HomotopyError(f"--fail-on '{shown}': {what}", hint=f"gates know {_FORMS}")

    # Every name is looked up before anything is decided, so that `False and typo` is an error.
    def _check(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name):
            self._known(node.id, self.names, "")
        elif isinstance(node, ast.Attribute):
            self._attribute(node)
        elif isinstance(node, ast.Call):
            self._check_call(node)
        else:
            for child in ast.iter_child_nodes(node):
                self._check(child)

    def _check_call(self, node: ast.Call) -> None:
        if node.keywords:
            raise self._error("functions take no keywords")
        if isinstance(node.func, ast.Attribute):
            self._layer_column(node)
        elif isinstance(node.func, ast.Name) and node.func.id in (*_FUNCTIONS, _RELATIVE):
            for argument in node.args:
                self._check(argument)
        else:
            raise self._error(f"unknown function {ast.unparse(node.func)!r}")

    def _known(self, name: str, where: Mapping[str, Any], prefix: str) -> Any:
        if name not in where:
            close = difflib.get_close_matches(name, list(where), n=1)
            hint = f"did you mean '{prefix}{close[0]}'?" if close else ""
            known = ", ".join(f"{prefix}{key}" for key in where if key not in ("layers",))
            raise HomotopyError(
                f"--fail-on '{self.expression}': unknown metric '{prefix}{name}'",
                hint=hint or f"known: {known}",
            )
        return where[name]

    def _value(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            return node.value
        if isinstance(node, ast.Name):
            return self._use(node.id, self.names[node.id])
        if isinstance(node, ast.Attribute):
            return self._use(*self._attribute(node))
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node)
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return self._arithmetic(node)
        if isinstance(node, ast.BoolOp):
            values = [bool(self._value(part)) for part in node.values]
            return all(values) if isinstance(node.op, ast.And) else any(values)
        if isinstance(node, ast.Compare):
            return self._compare(node)
        raise self._error(f"{ast.unparse(node)!r} is not allowed")

    def _arithmetic(self, node: ast.BinOp) -> float:
        left, right = self._value(node.left), self._value(node.right)
        try:
            return _ARITHMETIC[type(node.op)](left, right)
        except (ZeroDivisionError, OverflowError) as fault:
            raise NotEvaluable(f"{ast.unparse(node)} has no finite value") from fault

    def _unary(self, node: ast.UnaryOp) -> Any:
        value = self._value(node.operand)
        if isinstance(node.op, ast.Not):
            return not value
        if isinstance(node.op, ast.USub):
            return -value
        if isinstance(node.op, ast.UAdd):
            return value
        raise self._error(f"{ast.unparse(node)!r} is not allowed")

    def _compare(self, node: ast.Compare) -> bool:
        if any(type(op) not in _COMPARE for op in node.ops):
            raise self._error("only > >= < <= == != compare")
        sides = [node.left, *node.comparators]
        values = [
            self._relative(sides[i - 1], side) if _is_relative(side) else self._value(side)
            for i, side in enumerate(sides)
        ]
        pairs = zip(node.ops, values[:-1], values[1:], strict=True)
        return all(_COMPARE[type(op)](left, right) for op, left, right in pairs)

    def _relative(self, metric: ast.AST, node: ast.AST) -> float:
        if not isinstance(metric, ast.Name):
            raise self._error("a signed percentage follows a metric: 'max_kappa > +20%'")
        base = self._baseline(metric.id)
        change = float(ast.literal_eval(node.args[0]))  # type: ignore[attr-defined]
        return self._use(f"baseline.{metric.id}", base) * (1 + change / 100)

    def _baseline(self, name: str) -> Any:
        baseline = self.names.get("baseline")
        if baseline is None:
            raise HomotopyError(
                f"--fail-on '{self.expression}': there is no baseline to compare with",
                hint=f"add {self.baseline}",
            )
        return self._known(name, baseline, "baseline.")

    def _attribute(self, node: ast.Attribute) -> tuple[str, Any]:
        if not isinstance(node.value, ast.Name):
            raise self._error(f"{ast.unparse(node)!r} is not allowed")
        owner = node.value.id
        if owner == "baseline":
            return f"baseline.{node.attr}", self._baseline(node.attr)
        table = self._known(owner, self.names, "")
        if not isinstance(table, Mapping):
            raise self._error(f"'{owner}' has no parts; write baseline.{owner} for the baseline")
        return f"{owner}.{node.attr}", self._known(node.attr, table, f"{owner}.")

    def _layer_column(self, node: ast.Call) -> tuple[str, str, list[float]]:
        function = node.func
        assert isinstance(function, ast.Attribute)
        named = (
            isinstance(function.value, ast.Name)
            and function.value.id == "layers"
            and function.attr in ("max", "min", "mean")
            and len(node.args) == 1
            and isinstance(node.args[0], ast.Name)
        )
        if not named:
            raise self._error(f"{ast.unparse(node)!r}: write layers.max(kappa), .min or .mean")
        layers = self._known("layers", self.names, "")
        if not isinstance(layers, Mapping):
            keys = dict.fromkeys(key for layer in layers for key in layer)
            layers = {key: [layer.get(key) for layer in layers] for key in keys}
        name = node.args[0].id  # type: ignore[attr-defined]
        if not layers:
            return function.attr, name, []
        values = [_plain(value) for value in self._known(name, layers, "")]
        numbers = (int, float)
        return function.attr, name, [float(v) for v in values if isinstance(v, numbers)]

    def _call(self, node: ast.Call) -> float:
        if isinstance(node.func, ast.Attribute):
            which, name, values = self._layer_column(node)
            finite = [v for v in values if math.isfinite(v)]
            if not finite:
                raise NotEvaluable(f"layers.{which}({name}): no layer has a finite {name}")
            mean = math.fsum(finite) / len(finite)
            value = {"max": max(finite), "min": min(finite), "mean": mean}[which]
            self.used[f"layers.{which}({name})"] = value
            return value
        name = node.func.id  # type: ignore[attr-defined]
        if name == _RELATIVE or not node.args:
            raise self._error("a signed percentage stands to the right of a comparison")
        values = [self._value(argument) for argument in node.args]
        if name == "abs" and len(values) == 1:
            return abs(values[0])
        if name == "abs" or len(values) < 2:
            raise self._error("abs takes one value; min and max take two or more")
        return _FUNCTIONS[name](*values)

    def _use(self, name: str, raw: Any) -> Any:
        value = _plain(raw)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            self.used[name] = None
            raise NotEvaluable(f"{name} was not measured or is undefined")
        if not isinstance(value, (bool, int, float)):
            raise self._error(f"'{name}' is not a number; name one of its parts")
        self.used[name] = value
        return value


def _plain(raw: Any) -> Any:
    if isinstance(raw, Mapping) and "value" in raw:
        raw = raw["value"]
    return raw.item() if hasattr(raw, "item") else raw


def _is_relative(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == _RELATIVE
    )
