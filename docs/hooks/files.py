"""Brings files from elsewhere in the repository into the site: hooks for mkdocs."""

from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]

# Written by `make report`, `make conformance` and `python -m benchmarks.numerics docs/numerics.md`.
GENERATED = ("speed.md", "conformance.md", "numerics.md")


def on_config(config: Any) -> Any:
    """Leave out of the menu what has not been generated."""
    missing = [name for name in GENERATED if not (ROOT / "docs" / name).exists()]
    config.nav = [entry for entry in config.nav if not {*missing} & {*map(str, entry.values())}]
    return config


# Before the plugin that turns notebooks into pages.
@event_priority(100)
def on_files(files: Files, config: Any) -> Files:
    for pattern in ("notebooks/*.ipynb", "benchmarks/results/*.png"):
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """On the site, the pictures of measurements lie beside the pages, not above them."""
    return markdown.replace("](../benchmarks/results/", "](benchmarks/results/")
