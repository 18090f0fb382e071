"""Lists where the package's words break the house rules; ``python -m tests.project.words [FOLDER]`` prints them.

The rules are those of the contributors' guide: a docstring begins with a verb and has short sentences; no two files and
no two classes have one name; a variable says what its value is.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import capgate

PACKAGE: Final = Path(capgate.__file__).parent
#: Words that no docstring of a module or function begins with, because none of them is a verb.
NO_VERBS: Final = frozenset(
    [
        "a",
        "all",
        "an",
        "another",
        "any",
        "both",
        "but",
        "by",
        "each",
        "either",
        "every",
        "everything",
        "for",
        "from",
        "here",
        "how",
        "if",
        "in",
        "it",
        "its",
        "like",
        "most",
        "no",
        "none",
        "nobody",
        "nothing",
        "not",
        "of",
        "on",
        "one",
        "only",
        "or",
        "same",
        "several",
        "some",
        "somebody",
        "something",
        "such",
        "that",
        "the",
        "their",
        "there",
        "these",
        "they",
        "this",
        "those",
        "to",
        "two",
        "under",
        "what",
        "whatever",
        "when",
        "whenever",
        "where",
        "wherever",
        "whether",
        "which",
        "whichever",
        "who",
        "whoever",
        "whom",
        "whose",
        "why",
        "with",
        "without",
    ]  # forty lines otherwise
)
#: Variables that do not say what they hold.
VAGUE: Final = frozenset({"found", "one", "thing", "stuff", "tmp"})
WORDS: Final = 30
#: File names that several rooms have: each room's own part of the same kind.
SHARED: Final = frozenset({"__init__.py", "base.py", "command.py", "commands.py"})

_CODE: Final = re.compile(r"::\n\n(?:[ \t]+.*\n?|\n)+|``[^`]*``|:\w+:`[^`]*`|https?://\S+")
_TABLE: Final = re.compile(r"^``[\w.{} ,:]+``\s{1,}.*(?:\n[ \t]{4,}.*)*", re.MULTILINE)
_END: Final = re.compile(r"(?<=[.!?:;])\s+(?=[A-Z`:*])|\n\s*\n|\n\s*(?=[-*] )")


def modules(folder: Path = PACKAGE) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def breaches(folder: Path = PACKAGE, package: Path = PACKAGE) -> Iterator[str]:
    """Say, one line for each, what is wrong below ``folder``, and which names the ``package`` has twice."""
    for path, tree in modules(folder):
        where = path.relative_to(package.parent)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                for problem in _of_docstring(node):
                    yield f"{where}:{getattr(node, 'lineno', 1)}: {problem}"
            if isinstance(node, (ast.Name, ast.arg)):
                name = node.arg if isinstance(node, ast.arg) else node.id
                if name in VAGUE and not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)):
                    yield f"{where}:{node.lineno}: {name!r} does not say what it holds"
    yield from _names_twice(package)


def _of_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    text = ast.get_docstring(node)
    name = getattr(node, "name", "the module")
    if text is None:
        return
    begins = re.match(r"[^\w]*(\w+)", text)
    decorators = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", ())]
    is_value = isinstance(node, ast.ClassDef) or any("property" in decorator for decorator in decorators)
    if not is_value and begins is not None and not text.startswith(("``", ":")) and begins[1].lower() in NO_VERBS:
        yield f"the docstring of {name} begins with {begins[1]!r}, not with a verb"
    prose = _CODE.sub(" x ", _TABLE.sub("", text + "\n"))
    for sentence in _END.split(prose):
        count = len(re.findall(r"[\w'-]+", sentence))
        if count > WORDS:
            start = " ".join(sentence.split())[:60]
            yield f"the docstring of {name} has a sentence of {count} words: {start!r}"


def _names_twice(package: Path) -> Iterator[str]:
    files, classes = defaultdict(list), defaultdict(list)
    for path, tree in modules(package):
        where = str(path.relative_to(package.parent))
        files[path.name].append(where)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(f"{where}:{node.lineno}")
    for what, places in (("file", files), ("class", classes)):
        for name, paths in places.items():
            if what == "file":  # a file of the command line has the name of its command
                paths = [path for path in paths if not path.startswith(f"{package.name}/cli/")]
            if len(paths) > 1 and name not in SHARED:
                yield f"{what} {name} is there {len(paths)} times: {', '.join(paths)}"


if __name__ == "__main__":
    lines = list(breaches(PACKAGE / sys.argv[1] if len(sys.argv) > 1 else PACKAGE))
    print(*lines, f"{len(lines)} breaches", sep="\n")
    sys.exit(bool(lines))
