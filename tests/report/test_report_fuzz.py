"""Any log the reader can hand over becomes a page: strict JSON inside, no exception, no hang."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from homotopy_cli.records import EventRecord
from homotopy_cli.report.markdown import markdown_summary
from homotopy_cli.report.metrics import metrics_document, summarise
from homotopy_cli.report.page import render
from homotopy_cli.runlog import schema
from homotopy_cli.runlog.reader import RunLog, Spectrum

HOSTILE = ("</script><script>alert(1)</script>", "<i>x</i>", "a&b", 'q"uote', "\x1b[31m", "λ", "")
SPECIAL = np.array([math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-320, 1e308, -1e308, 1.0])
RECIPES = ({}, {"optimizer": {"lr": 1e-3}}, {"optimizer": "adam"}, {"scheduler": 3}, "{", "[1]")


def values(rng: np.random.Generator, shape, dtype="f8") -> np.ndarray:
    """Healthy, constant, wild or sprinkled with what is no number."""
    kind = rng.integers(5)
    made = np.exp(rng.normal(0, 1 + 8 * (kind == 2), shape))
    if kind == 1:
        made = np.full(shape, rng.choice(SPECIAL))
    if kind >= 3:
        sprinkled = rng.random(shape) < (0.1 if kind == 3 else 0.7)
        made = np.where(sprinkled, rng.choice(SPECIAL, shape), made)
    with np.errstate(over="ignore"):
        return made.astype(dtype)


def random_log(seed: int) -> RunLog:
    """A log of any shape that RunLog's types allow."""
    rng = np.random.default_rng(seed)
    n, m, v, layers = (
        int(rng.choice(k)) for k in ([0, 1, 2, 5, 140], [0, 1, 2, 12], [0, 1, 4], [0, 1, 30])
    )
    start = int(rng.choice([0, 10**9]))

    def text() -> str:
        return str(rng.choice(HOSTILE))

    def table(columns, rows):
        return {c.name: values(rng, rows) for c in columns if rng.random() < 0.6}

    return RunLog.empty(
        text() + "/run.h5",
        attrs={"run_id": text(), "status": text()},
        step=start + np.arange(n),
        steps=table(schema.STEP_VALUES, n),
        probe_step=start + np.arange(m) * 3,
        probes=table(schema.PROBE_VALUES, m),
        layers=tuple(f"{i}{text()}" for i in range(layers)),
        layer_numel=np.full(layers, -1),
        layer_kind=("Linear",) * layers,
        layer_values={
            c.name: values(rng, (m, layers), "f4")
            for c in schema.LAYER_VALUES
            if rng.random() < 0.6
        },
        eval_step=start + np.arange(v) * 7,
        evals=table(schema.EVAL_VALUES, v),
        spectra=tuple(
            Spectrum(
                start + i,
                int(rng.integers(-1, layers)),
                values(rng, size, "f4"),
                values(rng, size, "f4"),
                str(rng.choice(schema.SPECTRUM_KINDS)),
            )
            for i, size in enumerate(rng.integers(0, 5, 3))
        ),
        events=tuple(
            EventRecord(int(rng.integers(99)), str(rng.choice(schema.LEVELS)), text(), text())
            for _ in range(rng.integers(4))
        ),
        provenance={
            "recipe_source": text(),
            "recipe_resolved": RECIPES[rng.integers(len(RECIPES))],
            "environment": {text(): text()},
            "argv": (text(),),
        },
        missing=("kappa", "lr") if rng.random() < 0.5 else (),
        notes=(text(),),
    )


class Scripts(HTMLParser):
    """Collects the text of every <script>, and the names of all elements."""

    def __init__(self):
        super().__init__()
        self.scripts, self.tags, self._open = [], [], False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._open = tag == "script"
        if self._open:
            self.scripts.append("")

    def handle_endtag(self, tag):
        if tag == "script":
            self._open = False

    def handle_data(self, data):
        if self._open:
            self.scripts[-1] += data


def refuse_constant(name):
    raise AssertionError(f"{name} is no JSON")


def check(page: str) -> None:
    parser = Scripts()
    parser.feed(page)
    assert len(parser.scripts) == 3, "a name opened a script of its own"
    json.loads(parser.scripts[0], parse_constant=refuse_constant)
    assert "i" not in parser.tags, "a name became an element"
    assert not re.search(r'(?:src|href)="(?!#)', page)


@pytest.mark.parametrize("block", range(10))
def test_every_log_becomes_a_page(block):
    for seed in range(12 * block, 12 * (block + 1)):
        log = random_log(seed)
        check(render([log]))
        metrics = summarise(log)
        assert all(v is None or math.isfinite(v) for v in metrics.values()), seed
        json.dumps(metrics_document([log]), allow_nan=False)
        assert len(markdown_summary([log]).encode()) <= 64_000


@pytest.mark.parametrize("block", range(4))
def test_every_pair_of_logs_compares(block):
    for seed in range(1000 + 6 * block, 1000 + 6 * (block + 1)):
        first, second, base = (random_log(seed + 1000 * i) for i in range(3))
        check(render([first, second]))
        check(render([first], baseline=base))
        check(render([first, second, base], baseline=base))
        assert markdown_summary([first, second], baseline=base)
