"""The report: its content, that it is self-contained, and how a browser shows it."""

import base64
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.made_up_runs import a_run

import pyro_bayesprune as bp
from pyro_bayesprune.experiments.build import build_data
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.reporting import analysis
from pyro_bayesprune.reporting.page import OF_ONE, OF_SEVERAL, Page, render, report

EVIL = "<script>alert(1)</script>"
IMAGE = "data:image/svg+xml;base64,"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dense and a pruned run on digits, with draws, and one that failed."""
    out = tmp_path_factory.mktemp("runs")
    data = bp.load_dataset("digits")
    for sparsity in (0.0, 0.8):
        config = bp.configure(sparsity=sparsity, hidden=(16, 12), epochs=2)
        run = bp.run(config, out=out, progress=False)
        method = "last_layer_nuts" if sparsity else "laplace"
        analysis.analyse(run, data, method=method, foreign=data, draws=26, chains=2, warmup=60)
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
    return render([a_run(), a_run(sparsity=0.0, compression_ratio=1.0)])


def test_a_name_that_is_a_script_is_escaped():
    html = render([a_run(dataset=EVIL, method=EVIL, id=EVIL, commit=EVIL)])
    assert "<script" not in html and "&lt;script&gt;" in html


@pytest.mark.slow
def test_an_error_that_is_a_script_is_escaped(page):
    html = page.read_text()
    assert "<script" not in html and "Traceback: &lt;script&gt;" in html


def test_the_page_loads_no_external_resources(text):
    _check_self_contained(text)


@pytest.mark.slow
def test_a_report_with_draws_is_self_contained_and_sound(page):
    html = page.read_text()
    _check_self_contained(html)
    _check_sound(html, images=9)


def _check_self_contained(html):
    references = re.findall(r'\b(?:src|href|action|data|poster|srcset)="([^"]*)"', html)
    images = [r.removeprefix(IMAGE) for r in references if r.startswith(IMAGE)]
    others = [r for r in references if not r.startswith(IMAGE)]
    assert images and others and all(r.startswith("#") or r == "data:," for r in others)
    _check_references(html)
    for image in images:
        svg = base64.b64decode(image, validate=True).decode()
        ElementTree.fromstring(svg)  # browsers show well-formed XML only
        targets = re.findall(r'\b(?:href|src)="([^"]*)"', svg)
        assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
        names = r"<!DOCTYPE[^>]*>|<metadata>.*?</metadata>| xmlns(:\w+)?=\S+|<image"  # not fetched
        _check_references(re.sub(names, "", svg, flags=re.DOTALL))


def _check_references(text):
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", text))
    assert not re.search(r"<(script|iframe|object|embed|image)\b|@import|https?://", text)


class Reader(HTMLParser):
    """Collects the elements and attributes that the tests check."""

    def __init__(self):
        super().__init__()
        self.ids, self.images, self.labelled, self.lang, self.targets = [], [], [], None, []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.labelled += [attributes["aria-labelledby"]] if "aria-labelledby" in attributes else []
        self.lang = attributes.get("lang") if tag == "html" else self.lang
        if tag == "img":
            self.images.append(attributes)
        if tag == "a":
            self.targets.append(attributes["href"].removeprefix("#"))


def test_the_page_is_sound(text):
    _check_sound(text, images=2)


def _check_sound(html, images):
    reader = Reader()
    reader.feed(html)
    assert reader.lang == "en" and len(reader.images) >= images
    assert all(i["src"].startswith(IMAGE) and len(i["alt"]) > 20 for i in reader.images)
    assert len(reader.ids) == len(set(reader.ids))
    assert set(reader.targets) | set(reader.labelled) <= set(reader.ids)


def test_the_order_of_the_sections(text):
    several = ["flags", "results", "curves", "decisions", "layers", "calibration", "arviz"]
    assert re.findall(r'<h2 id="([\w-]+)"', text) == [*several, "prior", "origin"]
    one = ["flags", "decisions", "layers", "calibration", "arviz", "prior", "origin"]
    assert re.findall(r'<h2 id="([\w-]+)"', render([a_run()])) == one


def test_every_panel_says_how_to_read_it_and_an_empty_one_is_one_sentence():
    for build in {*OF_ONE, *OF_SEVERAL}:
        for runs in ([a_run()], []):
            panel = build(runs)
            assert all(panel.texts[name] for name in ("shows", "good", "bad", "advice"))
            assert panel.content or panel.note
    html = render([a_run()])
    assert html.count('class="empty"') == 3 and "How to read this" in html


def test_tables_fold_after_ten_rows():
    html = render([a_run(seed=seed, sparsity=level) for seed in range(2) for level in LEVELS])
    assert "All 12 rows of “Decisions of each run”" in html
    assert "Means over seeds" in html and "All 6 rows" not in html


LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def test_a_page_of_twenty_runs_costs_less_than_eight_of_one():
    def seconds(runs):
        start = time.process_time()
        render(runs)
        return time.process_time() - start

    seconds([a_run()])  # imports
    one = min(seconds([a_run()]) for _ in range(2))
    assert seconds([a_run(seed=seed) for seed in range(20)]) < 8 * one


def test_the_path_is_displayed_in_a_notebook(tmp_path):
    page = Page(tmp_path / "report.html")
    assert page._repr_html_() is None  # not written yet
    page.write_text('<p title="a">&</p>')
    html = page._repr_html_()
    assert 'srcdoc="&lt;p title=&quot;a&quot;&gt;&amp;&lt;' in html
    assert isinstance(page, Path) and page == tmp_path / "report.html"


def test_a_report_without_draws_needs_no_arviz(tmp_path):
    code = """
import sys
sys.modules.update(arviz=None, xarray=None)  # an import of them is an ImportError
import pyro_bayesprune as bp
from pyro_bayesprune.reporting import analyse
config = bp.configure(hidden=(8,), epochs=1, sparsity=0.5)
run = bp.run(config, out="runs", progress=False)
analyse(run, bp.load_dataset("digits"), method="none")
assert "Reliability" in bp.report([run.folder], "r.html").read_text()
fit = bp.fit(run.model, bp.load_dataset("digits"), epochs=1, progress=False)
print(bp.report(fit, bp.load_dataset("digits"), "fit.html"))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "fit.html\n"), done.stderr


@pytest.mark.slow
def test_a_report_of_failures_alone_says_so(folder, tmp_path):
    html = report([folder / "failed"], tmp_path / "r.html").read_text()
    assert "There is no finished run to judge." in html


def test_a_folder_counts_once_and_may_be_given_alone(finished_run, tmp_path):
    folder = finished_run.folder
    once = report(folder, tmp_path / "once.html").read_text()
    assert report([folder, folder.parent], tmp_path / "twice.html").read_text() == once
    with pytest.raises(ValueError, match=r"needs its folder: report\(\[run.folder\]\)"):
        report(finished_run)


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


def _page_of_runs(out, configs, method, **options):
    """Write the report of runs with draws, and return its path."""
    folders = []
    for config in configs:
        run = bp.run(config, out=out, progress=False)
        if method:
            analysis.analyse(run, build_data(config), method=method, **options)
        folders.append(run.folder)
    return report(folders, out / "report.html")


@pytest.fixture(scope="module")
def pages(page, tmp_path_factory):
    """Pages of all kinds."""
    out, few = tmp_path_factory.mktemp("pages"), {"hidden": (8, 6), "epochs": 2}
    numbers = few | {"dataset": "diabetes", "likelihood": "gaussian"}
    nuts = {"draws": 20, "chains": 2, "warmup": 30}
    scales = [bp.configure(prior_scale=scale, **few) for scale in (0.1, 0.3, 1.0)]
    twenty = out / "twenty.html"
    twenty.write_text(render([a_run(seed=s, sparsity=p) for s in range(5) for p in LEVELS[:4]]))
    one = bp.configure(sparsity=0.8, **few)
    return {
        "two and a failure": page,
        "one": _page_of_runs(out / "one", [one], "last_layer_nuts", **nuts),
        "auto": _page_of_runs(out / "auto", [bp.configure(sparsity="auto", **few)], "none"),
        "regression": _page_of_runs(
            out / "numbers", [bp.configure(**numbers)], "last_layer_nuts", **nuts
        ),
        "three with draws": _page_of_runs(out / "three", scales, "last_layer_laplace", draws=26),
        "twenty": twenty,
    }


KINDS = ["two and a failure", "one", "auto", "regression", "three with draws", "twenty"]


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore::DeprecationWarning:playwright")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 390])
@pytest.mark.parametrize("kind", KINDS)
def test_a_browser_finds_no_error_no_request_and_no_barrier(browser, pages, kind, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = pages[kind]
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
    if width == 1000 and kind in ("one", "auto", "regression"):
        assert view.evaluate("document.documentElement.scrollHeight") <= 4500
    view.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert view.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    violations = Axe().run(view).response["violations"]
    assert not violations, [(v["id"], v["nodes"][0]["html"][:200]) for v in violations]
    context.close()
