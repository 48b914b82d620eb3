"""Where the guides are: a wheel brings them along, a checkout has them in `docs/`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["page"]

_CHECKOUT = Path(__file__).parents[2]


def page(name: str) -> str:
    """Where the page `name` of the documentation is, to be printed."""
    from importlib.metadata import PackageNotFoundError, files

    written = f"docs/{name}"
    if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / written).is_file():
        return written
    try:
        found = [file for file in files("crossdock") or () if file.match(f"share/doc/crossdock/{name}")]
    except PackageNotFoundError:
        found = []
    there = (Path(str(file.locate())).resolve() for file in found)
    return next((str(path) for path in there if path.is_file()), written)
