"""What mkdocs.yml adds to the pages of docs/: those in the root of the repository.

GitHub shows the same files, so their links are relative to the repository. Here a link to a page of
the root becomes one within the site, and a link to any other file outside docs/ becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md", "RELIABILITY.md", "SECURITY.md")
README = "README.md"  # index.md takes its place

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^()\s#]+)(#[^()\s]*)?\)")
_IMAGE = re.compile(r"(!\[[^\]]*\]\()docs/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root to those of docs/."""
    for name in PAGES:
        files.append(File.generated(config, name, content=(ROOT / name).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make a page's links those of the site."""
    place = page.file.src_uri
    root = place in PAGES
    return site_links(_IMAGE.sub(r"\1", markdown) if root else markdown, place, root=root)


def site_links(markdown: str, place: str, *, root: bool) -> str:
    """Return a page whose links lead to pages of the site.

    Args:
        markdown: the page, with links that are relative to where it is in the repository.
        place: the page in the site, such as ``reference/flow.md``.
        root: whether it is a page of the repository's root instead of docs/.
    """
    home = "" if root else posixpath.join("docs", posixpath.dirname(place))
    here = posixpath.dirname(place)

    def replace(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        target = posixpath.normpath(posixpath.join(home, path))  # in the repository
        if target in PAGES:
            return f"[{text}]({posixpath.relpath(target, here or '.')}{anchor})"
        if target == README:
            return f"[{text}]({posixpath.relpath('index.md', here or '.')})"
        if PurePosixPath(target).parts[:1] == ("docs",) and PurePosixPath(target).suffix:
            inside = posixpath.relpath(target, "docs")
            return f"[{text}]({posixpath.relpath(inside, here or '.')}{anchor})"
        return text  # a file that is no page

    return _LINK.sub(replace, markdown)
