"""Hooks of the website: what mkdocs.yml cannot say by itself.

mkdocs calls them. They add the pages that lie outside docs/ and an API page for each package, lead
links to where pages are on the website, and turn equations into MathML.
"""

import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# Pages of the website, and the files of the repository that they show.
ELSEWHERE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks.md": "benchmarks/README.md",
    "benchmarks_log.md": "benchmarks/LOG.md",
    "benchmarks_peers.md": "benchmarks/peers/README.md",
}
PAGE_OF = {file: page for page, file in ELSEWHERE.items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page for each package into the navigation."""
    for entry in config.nav or []:
        if "API reference" in entry:
            entry["API reference"] = list(reference_pages())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs/ does not hold."""
    for page, path in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    for page, content in reference_pages().items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to pages, and write equations as MathML."""
    uri = page.file.src_uri
    markdown = with_links(markdown, ELSEWHERE.get(uri, f"docs/{uri}"), uri)
    return with_equations(markdown) if "```math" in markdown else markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Unfold source code beside the equations; elsewhere it stays folded."""
    folded = '<details class="mkdocstrings-source">'
    shown = folded.replace(">", " open>")
    return html.replace(folded, shown) if page.file.src_uri == "equations.md" else html


def with_links(markdown: str, path: str, uri: str) -> str:
    """Rewrite the links of a file of the repository for its page on the website.

    A link to a file that is no page becomes text: the website does not hold it.
    """

    def rewrite(match: re.Match[str]) -> str:
        bang, text, target, anchor = match.groups()
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if place.startswith("docs/"):
            place = place.removeprefix("docs/")
        elif place in PAGE_OF:
            place = PAGE_OF[place]
        elif (ROOT / place).exists():
            return text
        start = posixpath.dirname(uri) or "."
        return f"{bang}[{text}]({posixpath.relpath(place, start)}{anchor or ''})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)", rewrite, markdown)


def with_equations(markdown: str) -> str:
    """Blocks of the language `math`, and `$...$` outside of code, as MathML."""
    parts = re.split(r"(^```.*?^```$|`[^`\n]+`)", markdown, flags=re.MULTILINE | re.DOTALL)
    for index, part in enumerate(parts):
        if part.startswith("```math"):
            latex = part.removeprefix("```math").removesuffix("```").strip()
            parts[index] = convert(latex, display="block")
        elif not part.startswith("`"):
            parts[index] = re.sub(r"\$([^$\n]+)\$", lambda m: convert(m[1]), part)
    return "".join(parts)


def reference_pages() -> dict[str, str]:
    """By name, the API page of each package: all of its modules, from their docstrings."""
    packages = [
        folder for name in ("dreamer", "experiments") for folder in packages_in(ROOT / name)
    ]
    return {f"reference/{name_of(folder)}.md": reference_page(folder) for folder in packages}


def packages_in(folder: Path) -> list[Path]:
    """A package, and those in it."""
    return sorted(path.parent for path in folder.rglob("__init__.py"))


def reference_page(package: Path) -> str:
    """The page of one package."""
    modules = sorted(path for path in package.glob("*.py") if path.stem != "__main__")
    lines = [f"# {name_of(package)}", ""]
    for module in modules:
        name = name_of(module.with_suffix("")).removesuffix(".__init__")
        options = ["    options:", "      heading_level: 2", "      show_root_full_path: true"]
        options += ["      show_submodules: false"]
        lines += [f"::: {name}", *options, ""]
    return "\n".join(lines)


def name_of(path: Path) -> str:
    """The dotted name of a file or a folder of the repository."""
    return ".".join(path.relative_to(ROOT).parts)
