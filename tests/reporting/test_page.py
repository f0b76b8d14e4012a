"""The report: what it says, that it holds together alone, and how a browser sees it."""

import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest

import pyro_bayesprune as bp
from pyro_bayesprune.cli.app import parse
from pyro_bayesprune.cli.common import configuration
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting import (
    analysis,
    checklist,
    flags,
    methods,
    run_sections,
    verdict,
)
from pyro_bayesprune.reporting.page import PANELS, render, report

EVIL = "<script>alert(1)</script>"


def history(sparsity=0.9):
    return pd.DataFrame(
        {
            "epoch": [1, 2],
            "train_loss": [1.0, 0.5],
            "validation_loss": [1.1, 0.7],
            "test_loss": [1.1, 0.7],
            "log_bf": [-10.0, 0.0],
            "log_likelihood_ratio": [-12.0, 0.0],
            "log_prior_ratio": [2.0, 0.0],
            "log_threshold": [-11.0, -11.0],
            "decision": ["pruned", "unchanged"],
            "prior_decides": [True, False],
            "tries": [1, 0],
            "sparsity": [sparsity, sparsity],
        }
    )


def a_run(**changes):
    """A finished run as plain values; ``changes`` go to its settings or its result."""
    config = bp.configure("default", epochs=2).to_dict()
    result = {
        "id": "0123456789abcdef", "method": "custom", "test_accuracy": 0.95, "test_loss": 0.2,
        "test_brier": 0.1, "test_ece": 0.02, "achieved_sparsity": 0.9, "parameters": 1000,
        "compression_ratio": 9.0, "theoretical_speedup": 9.0, "num_classes": 10,
        "num_train": 1000, "layer_sparsity": {"fc1.weight": 0.9}, "dead_units": {"fc1.weight": 3},
        "collapsed_layers": [], "prior_decided": 1, "versions": {"torch": "2"},
        "machine": {"cpus": 2}, "commit": "abc", "finished": "2026-01-01", "epochs": 2,
        "seconds": 3.0,
    }  # fmt: skip
    for name, value in changes.items():
        (config if name in config else result)[name] = value
    return Run(config, result, history(result["achieved_sparsity"]))


def words(runs):
    return " ".join(f"{flag.level} {flag.text}" for flag in flags.flags(runs))


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


def test_a_clean_run_with_its_control_is_found_good():
    runs = [a_run(seed=s, sparsity=p) for s in range(3) for p in (0.0, 0.9)]
    runs = [Run(r.settings, r.metrics, r.history.assign(prior_decides=False)) for r in runs]
    assert verdict.verdict(runs, flags.flags(runs)).level == "good"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"collapsed_layers": ["fc1.weight"]}, "bad All weights of fc1.weight are zero"),
        ({"test_accuracy": 0.11}, "bad Test accuracy 11.0% is close to guessing"),
        ({"achieved_sparsity": 0.7}, "warning The gate stopped at a sparsity of 70.0%"),
        ({"test_ece": 0.2}, "warning Confidence is off by 0.200"),
        ({}, "warning In epochs 1 the prior alone turned the decision"),
        ({}, "warning There is no dense control"),
        ({}, "1 of 1 settings have fewer than 3 seeds"),
    ],
)
def test_flags_are_raised(changes, expected):
    assert expected in words([a_run(**changes)])


def test_diagnostics_raise_flags():
    told = {
        "convergence": {"rhat_log_joint": 1.2, "ess_log_joint": 50, "divergences": 2},
        "loo": {"pareto": [{"share": 0.5}, {"share": 0.3}, {"share": 0.2}]},
    }
    run = a_run()
    run = Run(run.settings, run.metrics, run.history, analysis={"diagnostics": told})
    found = words([run])
    for text in ("Chains disagree", "2 NUTS transitions diverged", "Pareto k is above 0.7"):
        assert text in found


def test_draws_that_predict_worse_than_the_map_raise_a_flag():
    scores = [{"network": "MAP", "nll": 0.1}, {"network": "mean over draws", "nll": 0.7}]
    run = a_run()
    run = Run(run.settings, run.metrics, run.history, analysis={"scores": scores})
    assert "The mean over draws predicts worse than the MAP" in words([run])


def test_a_loss_of_accuracy_is_weighed_against_the_control():
    runs = [a_run(sparsity=0.0, test_accuracy=0.99), a_run(test_accuracy=0.9)]
    assert "bad It is 9.00 points less accurate than its dense control" in words(runs)


def test_the_checklist_tells_what_is_met():
    items = {item.text: item.met for item in checklist.checklist([a_run()])}
    assert items["Hardware and versions."] and not items["Random pruning as a baseline."]
    assert len(items) == 19


def test_means_over_seeds_have_their_sample_standard_deviation():
    runs = [a_run(seed=s, test_accuracy=a) for s, a in enumerate((0.90, 0.92, 0.97))]
    table = run_sections.results_panel([*runs, a_run(sparsity=0.0)]).content[1]
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [row["seeds"] for row in rows] == ["3", "1"]
    assert [row["accuracy"] for row in rows] == ["0.9300 ± 0.0361", "0.9500"]
    assert len(run_sections.results_panel(runs[:1]).content) == 1


def test_epochs_without_a_step_are_folded_away():
    run, quiet = a_run(), history().iloc[[1]].loc[lambda h: h.index.repeat(20)]
    run = Run(run.settings, run.metrics, pd.concat([history(), quiet]))
    steps, every = run_sections.decisions_panel([run]).content
    assert len(steps.rows) == 1 and not steps.folded
    assert len(every.rows) == 22 and every.folded
    assert len(run_sections.decisions_panel([a_run()]).content) == 1


@pytest.mark.parametrize("config", [
    bp.configure(), bp.configure("paper", "magnitude", sparsity=0.99, hidden=(20, 10)),
    bp.configure(dataset="a b;c.safetensors", regrow=True),
])  # fmt: skip
def test_the_command_makes_the_run_again(config):
    import shlex

    _, *arguments = shlex.split(methods.command(config.to_dict()))
    assert configuration(parse(arguments[0], arguments[1:]).as_dict()) == config


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
