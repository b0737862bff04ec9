"""The pages: no link leads nowhere, and every key that is logged is explained."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
GUIDES = sorted(ROOT.glob("docs/*.md"))
PAGES = [*ROOT.glob("*.md"), *GUIDES, *ROOT.glob("benchmarks/**/*.md")]
AREAS = (
    "world_model|actor|critic|imagine|grad_norm|collect|eval|eval_explore|explore|replay|store|"
    "mirror|holdout|perf"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_pages_of_the_root_are_read():
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md"} <= {p.name for p in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_headings_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text())
    wrong = [
        (path, anchor)
        for path, anchor in links
        if anchor not in anchors((page.parent / path).read_text() if path else page.read_text())
    ]
    assert wrong == []


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {word.replace(" ", "-") for word in words}


def test_anchors_are_those_of_the_headings():
    assert anchors("# A new head\n\n## What's `new`?\n") == {"a-new-head", "whats-new"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    assert [name for name in named(page.read_text()) if not (ROOT / name).exists()] == []


def named(text: str) -> set[str]:
    """What a page names of the repository: paths in backticks that begin with one of our folders.

    Files that a page has its reader write are none: "as `conf/experiment/mine.yaml`:".
    """
    written = set(re.findall(r"as `([^`]+)`:\n", text))
    found = re.findall(r"`((?:dreamer|experiments|conf|tests|benchmarks|docs)/[\w./]*)`", text)
    return set(found) - written


def test_named_files_are_found():
    text = "In `dreamer/types.py`, and `conf/env/<suite>.yaml`. Save this as `conf/env/own.yaml`:\n"
    assert named(text) == {"dreamer/types.py"}


def test_readme_leads_to_every_page():
    readme = (ROOT / "README.md").read_text()
    assert [p.name for p in GUIDES if f"docs/{p.name}" not in readme] == []


def test_citation_has_the_required_keys_and_our_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # CFF 1.2.0
    assert {"type", "title", "authors"} <= citation["preferred-citation"].keys()
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


@pytest.fixture
def explained() -> set[str]:
    return set(re.findall(r"^\| `([\w/]+)` \|", (ROOT / "docs/logs.md").read_text(), re.MULTILINE))


def test_every_key_of_a_run_is_explained(explained, trained_run):
    lines = (trained_run / "metrics.jsonl").read_text().splitlines()
    written = {key for line in lines for key in json.loads(line)}
    assert len(written) > 30
    assert written - explained == set()


@pytest.mark.slow
def test_every_key_of_a_run_with_an_explorer_is_explained(explained, explored_run):
    lines = (explored_run / "metrics.jsonl").read_text().splitlines()
    written = {key for line in lines for key in json.loads(line)}
    assert {"explore/return", "eval_explore/length", "grad_norm/explore_ensemble"} <= written
    assert written - explained == set()
    networks = {"ensemble", "predictor", "actor", "critic"}
    assert {f"{area}/loss" for area in (f"explore_{name}" for name in networks)} <= explained


def test_every_key_in_the_code_is_explained(explained):
    code = "\n".join(path.read_text() for path in (ROOT / "dreamer").rglob("*.py"))
    in_code = set(re.findall(rf'"((?:{AREAS})/\w+)"', code))
    assert {"actor/dynamics", "perf/gpu_gib", "eval/return_mean"} <= in_code
    assert in_code - explained == set()
    ends = set(re.findall(r'"(?:\w+/)?(\w+)"', code)) | {"image_nll", "vector_nll"}
    ends |= {"reward_nll", "continue_nll"}
    ends |= {f"explore_{network}" for network in ("ensemble", "predictor", "actor", "critic")}
    assert {key for key in explained if key.split("/")[-1] not in ends} == set()
