"""One browser and one set of pages for all tests of the page."""

import sys
from pathlib import Path

import pytest
from chromium_pipe import Page, running_browser

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))

import report_samples as samples

from homotopy_cli.report.page import render


@pytest.fixture(scope="session")
def browser():
    with running_browser() as started:
        yield started


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    log = samples.transformer_log(n=600)
    other = samples.transformer_log(n=600, seed=1, lr=1e-3, path="b/run.h5")
    third = samples.transformer_log(n=600, seed=2, lr=1e-2, spike=False, path="c/run.h5")
    made = {
        "run": render([log]),
        "baseline": render([log], baseline=other),
        "plain": render([samples.plain_log()]),
        "probe": render([samples.probe_log()]),
        "compare": render([log, other, third]),
        "empty": render([samples.plain_log(0)]),
        "seeds": render(
            [
                samples.transformer_log(n=300, seed=seed, lr=lr, path=f"{lr}/{seed}/run.h5")
                for lr in (1e-3, 3e-3, 1e-2)
                for seed in (0, 1)
            ]
        ),
    }
    for name, html in made.items():
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return folder


@pytest.fixture
def opened(browser, pages):
    tabs = []

    def open_page(name, **how):
        page = Page(browser, pages / f"{name}.html", **how)
        tabs.append(page)
        return page

    yield open_page
    for page in tabs:
        page.close()
