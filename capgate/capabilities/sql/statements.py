"""What an SQL text does, told from the text alone: :func:`read_statements`.

The text is parsed with sqlglot in the dialect of the database. A parser that reads a text in another way than the
database does would be worse than none, so whatever leaves room for doubt is *opaque*, and counts as ``db.migrate``:

- text that dialects, or modes of one database, divide into tokens differently: a backslash before a quote, dollar
  quotes, comments in comments, ``/*!``, ``/*+``, control characters, white space and letters that only look like ASCII
- anything but SELECT, VALUES, INSERT, REPLACE INTO, UPDATE, DELETE, MERGE; whatever sqlglot does not parse, and
  whatever it parses into something that is not listed here
- calls of functions that are not listed in :data:`FUNCTIONS`
- dialects other than :data:`DIALECTS`

Kept apart from SQLAlchemy, so that it can be tested on texts.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any, Final

import msgspec
from sqlglot import Dialect, Token, TokenType, exp

from .tables import DML, READ, WRITE, touches
from .words import FUNCTIONS, STRUCTURE, WORDS, WRITING

MIGRATE: Final = "db.migrate"

#: SQLAlchemy's name of a dialect -> sqlglot's. Statements in others are opaque.
DIALECTS: Final = {"sqlite": "sqlite", "postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql"}
#: Characters of a text, after repeated rows of parameters are one. Longer ones are opaque.
TEXT_LIMIT: Final = 32_768
#: Texts of which the analysis is kept; those of at most ``SHORT`` characters as they are, others simplified.
CACHED: Final = 1_024
SHORT: Final = 2_048
#: Joins that are open at once: sqlglot's time doubles with each.
OPEN_JOINS: Final = 8

_FIRST: Final = frozenset({"SELECT", "WITH", "VALUES", "INSERT", "UPDATE", "DELETE", "MERGE", "("})
#: Not in a text that only reads, unless as a function or the name of a column.
_VERBS: Final = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "INTO", "TABLE", "OUTFILE", "DUMPFILE"})
_ROOTS: Final = (exp.Select, exp.SetOperation, exp.Subquery, exp.Values, *DML)
_UNKNOWN: Final = (exp.Anonymous, exp.AnonymousAggFunc)

_AMBIGUOUS: Final = re.compile(
    r"""[\x00-\x08\x0b\x0c\x0e-\x1f\x7f] | \r(?!\n)     # control characters: some end a line, or a text, somewhere
    | \\['"`]                          # the end of a literal, or not, by dialect and mode
    | \$(?:[^\W\d]\w*)?\$              # a dollar quote in PostgreSQL only
    | /\*[!+M]                         # MySQL and MariaDB run what is in such a comment; hints set variables
    | /\*(?:[^*/]|\*(?!/)|/(?!\*))*/\* # a comment in a comment, which nests for some
    | \{[\#%{*+-]                      # a template to sqlglot
    """,
    re.VERBOSE,
)
_AMBIGUOUS_IN: Final = {
    "sqlite": re.compile(r"[:$@#]\w+(?:::\w*)*\("),  # the name of a parameter goes on to the next ")", quotes and all
    "postgres": re.compile(r"`"),  # an operator
}
_NAMED_PARAMETER: Final = re.compile(r"(?<![\w$])(?:%\(\w+\)s|%s|\$\d+)")
_PARAMETERS: Final = re.compile(r"(\?|:p)(?:, ?\1)+")
_COUNTED_ROWS: Final = re.compile(r"\((\?|:p), \d+\)(?:, ?\(\1, \d+\))+")
_SAME_ROWS: Final = re.compile(r"""(\((?:[^()'"]|\([^()'"]*\))*\))(?:, ?\1)+""")
_REPLACE: Final = re.compile(r"\A\s*REPLACE(?=\s+INTO\b)", re.ASCII | re.IGNORECASE)
_CONTROL: Final = re.compile(
    r"""\s*(?: BEGIN(\s+(DEFERRED|IMMEDIATE|EXCLUSIVE))?(\s+(TRANSACTION|WORK))? | START\s+TRANSACTION
    | (COMMIT|END|ROLLBACK)(\s+(TRANSACTION|WORK))? | ROLLBACK(\s+TRANSACTION)?\s+TO(\s+SAVEPOINT)?\s+(\w+|"\w+"|`\w+`)
    | (SAVEPOINT|RELEASE(\s+SAVEPOINT)?)\s+(\w+|"\w+"|`\w+`) )\s*(?:;\s*)?""",
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)


class Statements(msgspec.Struct, frozen=True):
    """What a text does.

    ``actions``  the action of each statement, none twice; none at all for transaction control
    ``touches``  action and table, as written (``schema.table``), for each table that is touched, in their order;
                 ``None`` where that is not certain
    """

    actions: tuple[str, ...]
    touches: tuple[tuple[str, str], ...] | None = None

    @property
    def strongest(self) -> str:
        """The action that reaches furthest."""
        return MIGRATE if MIGRATE in self.actions else WRITE if WRITE in self.actions else READ


CONTROL: Final = Statements((), ())
OPAQUE: Final = Statements((MIGRATE,))


def read_statements(sql: str, dialect: str, *, functions: frozenset[str] = frozenset()) -> Statements:
    """What ``sql`` does in a database of SQLAlchemy's ``dialect``. Raises nothing: what is not understood is opaque.

    ``functions`` are names, in upper case, that count as :data:`FUNCTIONS` do.
    """
    return (_read_short if len(sql) <= SHORT else _read)(sql, dialect, functions)


def _read(sql: str, dialect: str, functions: frozenset[str]) -> Statements:
    if _CONTROL.fullmatch(sql):
        return CONTROL
    name = DIALECTS.get(dialect)
    if name is None or _is_ambiguous(sql, name):
        return OPAQUE
    text = _simplified(sql)
    return OPAQUE if len(text) > TEXT_LIMIT else _parsed(text, name, functions)


_read_short: Final = lru_cache(CACHED)(_read)


def _is_ambiguous(sql: str, dialect: str) -> bool:
    more = _AMBIGUOUS_IN.get(dialect)
    if _AMBIGUOUS.search(sql) or (more is not None and more.search(sql)):
        return True
    # A space that is none to the database, what is not seen, and letters that become ASCII as capitals (a long s).
    return not sql.isascii() and any(
        unicodedata.category(one)[0] in "ZC" or one.upper().isascii() for one in set(sql) if not one.isascii()
    )


def _simplified(sql: str) -> str:
    """``sql`` with all parameters written alike, and equal rows of them once: a batch of any size is one text.

    It takes quotes neither away nor adds them, so a literal stays one, whatever becomes of its content.
    """
    text = _NAMED_PARAMETER.sub(":p", sql).replace("%%", "%")
    text = _PARAMETERS.sub(r"\1", text)
    return _REPLACE.sub("INSERT", _SAME_ROWS.sub(r"\1", _COUNTED_ROWS.sub(r"(\1)", text)))


@lru_cache(CACHED)
def _parsed(sql: str, dialect: str, functions: frozenset[str]) -> Statements:
    try:
        tokens = Dialect.get_or_raise(dialect).tokenize(sql)
        parts = [_statement(part, dialect, sql, functions) for part in _split(tokens)]
    except Exception:  # of which sqlglot raises many kinds, RecursionError among them
        return OPAQUE
    if not parts:
        return OPAQUE
    actions = tuple(sorted({action for part in parts for action in part.actions}))
    if any(part.touches is None for part in parts):
        return Statements(actions)
    return Statements(actions, tuple(sorted({touch for part in parts for touch in part.touches or ()})))


def _split(tokens: list[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token.token_type == TokenType.SEMICOLON:
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


def _statement(tokens: list[Token], dialect: str, sql: str, functions: frozenset[str]) -> Statements:
    """What one statement does. Raises whatever sqlglot raises."""
    words = [_word(token) for token in tokens]
    if words[0] not in _FIRST or _opens_too_many_joins(words):
        return OPAQUE
    trees = Dialect.get_or_raise(dialect).parser().parse(tokens, sql)
    tree = trees[0] if len(trees) == 1 else None
    if not isinstance(tree, _ROOTS) or not all(_is_known(node) for node in tree.walk()):
        return OPAQUE
    called = _called(tokens, words, tree) - FUNCTIONS - functions
    if called - WRITING or (dialect == "sqlite" and _reads_pragma(tree)):
        return OPAQUE
    writes = bool(called) or tree.find(exp.Into, *DML) is not None
    if not writes and _has_verb(words):
        return OPAQUE
    unnamed = called or tree.find(exp.Into)  # what is written has no name here
    return Statements((WRITE if writes else READ,), None if unnamed else touches(tree, dialect))


def _word(token: Token) -> str:
    """The token in upper case, of several words the last; nothing for what is quoted."""
    if token.token_type in (TokenType.IDENTIFIER, TokenType.STRING):
        return ""
    return token.text.upper().rpartition(" ")[2]


def _opens_too_many_joins(words: list[str]) -> bool:
    open = 0
    for before, word in zip(["", *words], words, strict=False):
        if word in ("JOIN", "STRAIGHT_JOIN") and before not in ("CROSS", "NATURAL"):
            open += 1
            if open > OPEN_JOINS:
                return True
        elif word in ("ON", "USING") and open:
            open -= 1
    return False


def _has_verb(words: list[str]) -> bool:
    """Whether a statement that reads, by its tree, has a word that would make it write."""
    padded = ["", *words, ""]
    for before, word, after in zip(padded, words, padded[2:], strict=False):
        locks = word == "UPDATE" and before in ("FOR", "KEY")
        if word in _VERBS and before != "." and not locks and (after != "(" or word == "INTO"):
            return True
    return False


def _is_known(node: Any) -> bool:
    return isinstance(node, (exp.Condition, exp.Func)) or node.key in STRUCTURE


def _called(tokens: list[Token], words: list[str], tree: exp.Expression) -> set[str]:
    """The functions that are called, by the tokens and by the tree: what stands before a parenthesis, unless it is a
    word of the language, or a relation with its columns. In upper case; what is quoted or has a schema stays as it is,
    in quotes, and is none that could be listed."""
    relations = _relations(tree)
    found = {call.name.upper() for call in tree.find_all(*_UNKNOWN)} - WORDS
    for index, after in enumerate(words[1:]):
        token, word = tokens[index], words[index]
        if after != "(" or not _is_name(token) or token.text.casefold() in relations:
            continue
        if not word or not word.isascii() or (index and words[index - 1] == "."):
            found.add(repr(token.text))
        elif word not in WORDS:
            found.add(word)
    return found


def _is_name(token: Token) -> bool:
    """Whether this may name a function; in a mode of MySQL's, a text in double quotes may."""
    if token.token_type in (TokenType.IDENTIFIER, TokenType.STRING):
        return True
    last = token.text[-1:]
    return last.isalnum() or last in ("_", "$") or not last.isascii()


def _relations(tree: exp.Expression) -> set[str]:
    """Names that a list of columns may follow, and that no function of the tree has."""
    named = {
        one.this.name.casefold()
        for one in tree.find_all(exp.Table, exp.TableAlias)
        if isinstance(one.this, exp.Identifier)
    }
    for call in tree.find_all(exp.Func):
        named.difference_update(
            name.casefold() for name in ([call.name] if isinstance(call, _UNKNOWN) else call.sql_names())
        )
    return named


def _reads_pragma(tree: exp.Expression) -> bool:
    """Whether a PRAGMA of SQLite is read as a table."""
    return any(table.name.lower().startswith("pragma_") for table in tree.find_all(exp.Table))
