"""What the README and the pages print can be done: code runs, commands parse, links work."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from helpers import report_script
from jsonargparse import ArgumentParser

from pyro_bayesprune._utils.tables import fill
from pyro_bayesprune.cli.app import COMMANDS, parse

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts),
    *sorted((ROOT / "reports").rglob("*.md")),
]


def blocks(page, language):
    fenced = re.findall(r"^```(\S*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def cases(found):
    return [
        pytest.param(block, id=f"{page.parent.name}-{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(found(page))
    ]


def commands(page):
    """The bayesprune commands of a page, in blocks of their own."""
    lines = "\n".join(blocks(page, "")).replace("\\\n", "").splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("bayesprune ")]


def inline_commands(page):
    """The bayesprune commands with options that stand in a sentence."""
    return re.findall(r"`(bayesprune \w+ [^`…]*)`", page.read_text())


@pytest.mark.slow  # test_ten_lines runs the first block in the fast set
@pytest.mark.parametrize("code", cases(lambda page: blocks(page, "python")))
def test_a_block_of_code_runs_alone(code, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "block", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("line", cases(lambda page: commands(page) + inline_commands(page)))
def test_a_command_fits_the_command_line(line, capsys):
    _, command, *arguments = shlex.split(line)
    if "--help" not in arguments:
        parse(command, arguments)
        return
    with pytest.raises(SystemExit) as stop:
        parse(command, arguments)
    assert stop.value.code == 0


def test_the_pages_have_code_and_commands():
    assert len(blocks(PAGES[0], "python")) == 2
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 25
    assert sum(len(commands(page)) for page in PAGES) >= 30


def test_the_readme_is_short():
    text = re.sub(r"```.*?```|\]\([^)]*\)|`[^`]*`", "", PAGES[0].read_text(), flags=re.DOTALL)
    assert 600 <= len(re.findall(r"[A-Za-z][A-Za-z'-]*", text)) <= 900  # without code and links


def test_what_the_readme_tells_make_to_do_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = {name for page in PAGES for name in re.findall(r"`make ([a-z-]+)`", page.read_text())}
    told |= set(re.findall(r"^make ([a-z-]+)", PAGES[0].read_text(), re.MULTILINE))
    assert {"demo", "test"} <= told <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [link for link in links if not re.match(r"https?:|mailto:", link)]
    assert not [link for link in local if not (page.parent / link).exists()]


@pytest.mark.parametrize("report", ["paper", "moonshot"])
def test_the_tables_say_what_the_runs_say(report):
    make = report_script(report)
    texts = {page: page.read_text() for page in make.PAGES}
    named = {name for text in texts.values() for name in re.findall(r"<!-- (.*) -->", text)}
    assert set(make.TABLES) <= named
    for text in texts.values():
        assert fill(text, make.TABLES) == text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is(command):
    parser = ArgumentParser()
    import_module(f"pyro_bayesprune.cli.{command}").add_arguments(parser)
    assert not [action.dest for action in parser._actions if not action.help]
