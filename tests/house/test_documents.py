"""Documents that tell of the repository go wrong silently; these notice."""

import re
import tomllib
from pathlib import Path

import click
import pytest

from icnblocks.client.settings import _READERS, _SPELLED
from icnblocks.errors import IcnError
from icnblocks.limits import DEFAULT_LIFETIME_S
from icnblocks_daemon.cli import icn_edge
from icnblocks_tools.lazy import load
from icnblocks_tools.main import COMMANDS, icn

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = ("icnblocks", "daemon", "tools", "benchmarks", "docs", "examples", "tests")
_EVERYWHERE = {"--help", "--version"}
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def _packages():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return {re.split(r"[\[<>=~! ]", wanted)[0] for group in groups for wanted in group}


def test_every_dependency_is_justified():
    text = (ROOT / "docs" / "dependencies.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    told = {word for row in rows for word in re.findall(r"[\w-]+", row)}
    assert _packages() - told == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (document.parent / link).exists()] == []
    assert [link for link in local if link.startswith("/")] == []


def _anchors(document):
    """As GitHub names them: words in lower case with hyphens, without what is no word."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_into_documents_name_a_heading(document):
    """Catches: a heading that was renamed, and a reader who is sent to the top of a long page."""
    links = re.findall(r"\]\(([^)\s:]*)#([^)\s]+)\)", document.read_text())
    lost = [
        (path, anchor)
        for path, anchor in links
        if anchor not in _anchors(document.parent / path if path else document)
    ]
    assert lost == []


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"edge", "sim"}))
def test_every_option_of_a_command_is_told_of(name):
    """Catches: an option that stands in --help only. Those of the daemon are in
    tests/daemon/test_config.py; those of `icn sim` are what `--help` says.
    """
    text = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    params = load(COMMANDS[name][0]).params
    options = [each for each in params if isinstance(each, click.Option)]
    told = set(re.findall(r"--[a-z-]+", text))
    assert [each.opts[0] for each in options if told.isdisjoint(each.opts)] == []


def _commands(name):
    """A program's command, and all below it."""
    if name == "icn-edge":
        yield icn_edge
        yield from icn_edge.commands.values()
        return
    command = icn if name == "icn" else load(COMMANDS[name.removeprefix("icn-")][0])
    yield command
    for below in command.list_commands(None) if isinstance(command, click.Group) else ():
        yield command.get_command(None, below)


def _lines_with_commands():
    """(program, the rest of its line) wherever a text writes one as it is typed."""
    pattern = r"(?:^|[`$(/\"' ])(icn(?:-edge|-fetch|-publish|-show|-verify|-sim)?) ([^`|;&\n]+)"
    for file in [*DOCUMENTS, *(ROOT / "examples").iterdir()]:
        if file.is_file() and file.name != "CHANGELOG.md":  # it tells of what is gone, too
            text = file.read_text().replace("\\\n", " ")
            for program, rest in re.findall(pattern, text, re.MULTILINE):
                yield program, rest.partition(" #")[0]


def test_options_of_commands_as_they_are_written_exist():
    """Catches: a line to copy that ends with `No such option`, since the option was renamed."""
    known = {
        name: {
            word
            for each in _commands(name)
            for param in each.params
            for word in (*param.opts, *param.secondary_opts)
        }
        for name in PROJECT["scripts"]
    }
    known["icn"] = set().union(*known.values())
    written = {
        (program, option)
        for program, rest in _lines_with_commands()
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]+", rest)
    }
    wrong = [pair for pair in sorted(written) if pair[1] not in known[pair[0]] | _EVERYWHERE]
    assert wrong == []
    assert len(written) > 30


def test_every_setting_of_the_client_stands_in_its_table_and_no_other():
    """Catches: a setting that nobody hears of, and one to be refused as unknown."""
    table = (ROOT / "docs" / "client.md").read_text().partition("## What a pull does")[0]
    rows = re.findall(r"^\| `(\w+)` \| `ICN_(\w+)`", table, re.MULTILINE)
    assert [(key, variable.lower()) for key, variable in rows] == [(key, key) for key, _ in rows]
    assert {key for key, _ in rows} == {_SPELLED.get(key, key) for key in _READERS}


def test_targets_and_modules_that_are_named_are_there():
    """Catches: `make NAME` and `python -m NAME` of what has another name now."""
    text = "\n".join(file.read_text() for file in DOCUMENTS if file.name != "CHANGELOG.md")
    made = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:`|^    (?:sudo )?)make ([a-z-]+)", text, re.MULTILINE))
    assert [each for each in targets if not re.search(rf"^{each}:", made, re.MULTILINE)] == []
    modules = set(re.findall(r"python -m ([a-z_]+(?:\.[a-z_]+)*)", text)) - {"pytest"}
    files = {each: ROOT / each.replace(".", "/") for each in modules}
    lost = [
        each for each, at in files.items() if not (at.is_dir() or at.with_suffix(".py").exists())
    ]
    assert lost == []
    assert len(targets) > 4
    assert len(modules) > 8


def test_documents_that_are_named_are_there():
    """Catches: a docstring that sends its reader to a document of another name."""
    sources = [file for top in SOURCES for file in (ROOT / top).rglob("*.py")]
    named = {
        (path, str(file.relative_to(ROOT)))
        for file in [*DOCUMENTS, *sources]
        for path in re.findall(r"\bdocs/[\w./-]*\.md\b", file.read_text())
    }
    assert [(path, file) for path, file in sorted(named) if not (ROOT / path).exists()] == []


def test_the_changelog_tells_of_the_version():
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("document", ["README.md", "docs/client.md"])
def test_when_a_new_version_is_seen_through_an_edge_is_told(document):
    """Catches: a user who pulls what was published just now, and gets the old one."""
    told = f"after up to {DEFAULT_LIFETIME_S} s"
    lines = (ROOT / document).read_text().splitlines()
    assert any(told in line and "icn-publish --lifetime" in line for line in lines)


def _errors(kind=IcnError):
    yield kind
    for below in kind.__subclasses__():
        yield from _errors(below)


def test_every_error_has_its_line_in_the_table_of_exit_codes():
    text = (ROOT / "docs" / "client.md").read_text()
    for kind in _errors():
        if kind.__module__ == "icnblocks.errors":
            retry = "yes" if kind.retry else "no"
            start = rf"\| {kind.exit_code} \| `{kind.code}` \| [^|]+"
            assert re.search(rf"{start} \| {kind.fault}\b[^|]*\| {retry} \|", text), kind
