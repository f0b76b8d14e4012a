"""The report: what it says, that it holds together alone, and how a browser sees it."""

import re
import shutil
from html.parser import HTMLParser

import pytest
from helpers.made_up_runs import a_run

import pyro_bayesprune as bp
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.reporting import (
    analysis,
)
from pyro_bayesprune.reporting.page import PANELS, render, report

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dense and a pruned run on digits, with draws, and one that failed."""
    out = tmp_path_factory.mktemp("runs")
    data = bp.load_dataset("digits")
    for sparsity in (0.0, 0.8):
        config = bp.configure(sparsity=sparsity, hidden=(16, 12), epochs=2)
        run = bp.run(config, out=out, progress=False)
        method = "last_layer_nuts" if sparsity else "laplace"
        analysis.analyse(run, data, method=method, foreign=data, draws=20, chains=2, warmup=60)
    failed = out / "failed"
    shutil.copytree(run.folder, failed, ignore=shutil.ignore_patterns("result.json", "*.nc"))
    (failed / "error.txt").write_text(f"Traceback: {EVIL}")
    return out


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    return report([folder], out)


@pytest.fixture(scope="module")
def text():
    """The page of two made-up runs: quick."""
    return render([a_run(), a_run(sparsity=0.0, id="fedcba9876543210")])


def test_a_name_that_is_a_script_is_escaped():
    html = render([a_run(dataset=EVIL, method=EVIL, id=EVIL, commit=EVIL)])
    assert "<script" not in html and "&lt;script&gt;" in html


@pytest.mark.slow
def test_an_error_that_is_a_script_is_escaped(page):
    html = page.read_text()
    assert "<script" not in html and "Traceback: &lt;script&gt;" in html


def test_nothing_is_loaded_from_anywhere(text):
    _check_alone(text)


@pytest.mark.slow
def test_a_report_with_draws_holds_together(page):
    html = page.read_text()
    _check_alone(html)
    _check_sound(html, images=12)


def _check_alone(html):
    references = re.findall(r'\b(?:src|href|action|data|poster|srcset)="([^"]*)"', html)
    assert references and all(r.startswith("#") or r == "data:," for r in references)
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", html))
    assert not re.search(r"<(script|iframe|object|embed|img)\b|@import|https?://", html)


class Reader(HTMLParser):
    """Collects what the tests ask for."""

    def __init__(self):
        super().__init__()
        self.ids, self.images, self.labelled, self.lang, self.targets = [], [], [], None, []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.labelled += [attributes["aria-labelledby"]] if "aria-labelledby" in attributes else []
        self.lang = attributes.get("lang") if tag == "html" else self.lang
        if tag == "svg":
            self.images.append(attributes)
        if tag == "a":
            self.targets.append(attributes["href"].removeprefix("#"))


def test_the_page_is_sound(text):
    _check_sound(text, images=4)


def _check_sound(html, images):
    reader = Reader()
    reader.feed(html)
    assert reader.lang == "en" and len(reader.images) >= images
    assert all(i["role"] == "img" and len(i["aria-label"]) > 20 for i in reader.images)
    assert len(reader.ids) == len(set(reader.ids))
    assert set(reader.targets) | set(reader.labelled) <= set(reader.ids)


def test_sections_come_in_the_order_of_what_a_reader_asks(text):
    found = re.findall(r'<h2 id="([\w-]+)"', text)
    assert found == [
        "verdict", "flags", "provenance", "results", "curves", "decisions", "layers",
        "compression", "arviz", "calibration", "prior", "failed", "checklist", "methods",
    ]  # fmt: skip


def test_every_panel_says_how_to_read_it():
    for build in PANELS:
        for runs in ([a_run()], []):
            panel = build(runs)
            assert all((panel.shows, panel.good, panel.bad, panel.do))
            assert panel.content or panel.missing


@pytest.mark.slow
def test_a_report_of_failures_alone_says_so(folder, tmp_path):
    html = report([folder / "failed"], tmp_path / "r.html").read_text()
    assert "There is no finished run to judge." in html


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(RunError, match="expected a run folder"):
        report([tmp_path])


@pytest.mark.slow
def test_a_fit_and_a_result_are_shown_in_a_notebook_escaped(folder):
    run = next(bp.load_run(p.parent) for p in sorted(folder.glob("*/result.json")))
    html = run._repr_html_()
    assert "<table" in html and "test accuracy" in html
    object.__setattr__(run.config, "dataset", EVIL)
    assert "<script" not in run._repr_html_()


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail("no Chromium: apt-get install chromium (see .ci/run), or leave out -m browser")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-quic", "--disable-gpu"]
        chromium = playwright.chromium.launch(executable_path=path, args=options)
        yield chromium
        chromium.close()


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore::DeprecationWarning:playwright")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_finds_no_error_no_request_and_no_barrier(browser, page, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True
    )
    view = context.new_page()
    messages, requests = [], []
    view.on("console", lambda message: messages.append(message.text))
    view.on("pageerror", lambda error: messages.append(str(error)))
    view.on("request", lambda request: requests.append(request.url))
    view.goto(page.as_uri())
    assert not messages
    assert all(url == page.as_uri() or url.startswith("data:") for url in requests)
    assert view.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    view.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = Axe().run(view).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], v["nodes"][0]["html"][:200]) for v in serious]
    context.close()
