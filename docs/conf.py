"""Configures the site: ``python -m sphinx -W -b html docs build/site`` makes it of this folder.

Needs the extra ``docs``. No page asks another host for anything: the theme brings its scripts, and no fonts.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import command_line

project = "capgate"
author = "the capgate maintainers"
copyright = author
version = release = version_of("capgate")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 4
myst_enable_extensions = ["deflist", "fieldlist"]

html_theme = "furo"
html_title = f"capgate {version}"
html_static_path = ["static"]
html_css_files = ["capgate.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {"footer_icons": []}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

#: A row of the tables that docstrings are written with: a name, two spaces or more, and what it means.
_ROW: Final = re.compile(r"^(``[^`]+``(?:, ``[^`]+``)*)  +(\S.*)$")


def definitions_of(lines: list[str]) -> list[str]:
    """Return the lines of a docstring with each aligned table as a list of definitions, which reST knows."""
    out: list[str] = []
    within = False
    for line in lines:
        row = _ROW.match(line)
        if row is not None:
            if not within and out and out[-1]:
                out.append("")
            out += [row[1], f"    {row[2]}"]
            within = True
        elif within and line.startswith("  "):
            out.append(f"    {line.strip()}")
        else:
            if within and line:
                out.append("")
            out.append(line)
            within = False
    return out


def _read_tables(_app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = definitions_of(lines)


def _write_commands(_app: Any, name: str, source: list[str]) -> None:
    if name == "reference/command_line":
        source[0] = source[0].replace(command_line.MARK, command_line.made())


def setup(app: Any) -> dict[str, bool]:
    """Have docstrings read as they are written, and the commands listed."""
    app.connect("autodoc-process-docstring", _read_tables)
    app.connect("source-read", _write_commands)
    return {"parallel_read_safe": True}
