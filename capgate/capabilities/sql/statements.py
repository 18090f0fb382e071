"""Tells what an SQL text does from the text alone: :func:`read_statements`.

The text is parsed with sqlglot in the dialect of the database. A parser that reads a text in another way than the
database does would be worse than none, so whatever leaves room for doubt is *opaque*, and counts as ``db.migrate``:

- text that dialects, or modes of one database, divide into tokens differently. Such are a backslash before a quote,
  dollar quotes, comments in comments, ``/*!``, ``/*+``, control characters, white space and letters that only look like
  ASCII
- anything but SELECT, VALUES, INSERT, REPLACE INTO, UPDATE, DELETE, MERGE; whatever sqlglot does not parse, and
  whatever it parses into something that is not listed here
- calls of functions that :data:`FUNCTIONS` does not have for the dialect
- in PostgreSQL a field that is selected from a value, as in ``(orders).wipe``, which may be such a call
- dialects other than :data:`DIALECTS`

Kept apart from SQLAlchemy, so that it can be tested on texts.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, Final

import msgspec
from sqlglot import Dialect, Token, TokenType, exp

from .qualified_columns import qualified_columns
from .touched_tables import DML, READ, WRITE, defined_by, folded, table_name, touched_tables

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
    "postgres": re.compile(r"`|[Uu]&['\"]"),  # an operator; what is in the quotes is decoded, by a character of choice
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


#: Functions that all dialects have.
_EVERYWHERE: Final = """
    count sum avg min max row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value
    nth_value coalesce nullif cast lower upper length trim ltrim rtrim substr substring replace char abs ceil
    ceiling floor round sign mod power pow sqrt exp ln log log10 pi degrees radians sin cos tan asin acos atan atan2
    current_timestamp current_date current_time date time json_object
"""
#: Those of PostgreSQL 15: what ``pg_catalog`` has, and words that no function may be called by.
_POSTGRESQL: Final = """
    string_agg array_agg bool_and bool_or every bit_and bit_or stddev stddev_pop stddev_samp variance var_pop
    var_samp corr percentile_cont percentile_disc mode grouping json_agg jsonb_agg json_object_agg jsonb_object_agg
    greatest least convert char_length character_length octet_length bit_length btrim concat concat_ws lpad rpad
    left right reverse position strpos initcap ascii chr translate split_part starts_with like md5 sha256 encode
    decode trunc random gen_random_uuid now localtime localtimestamp timestamp date_trunc date_part extract age
    to_char to_date to_timestamp to_number make_date make_interval json_array_length json_each json_build_object
    json_build_array jsonb_build_object jsonb_build_array jsonb_set json_extract_path json_extract_path_text
    jsonb_extract_path jsonb_extract_path_text json_array_elements jsonb_array_elements jsonb_array_elements_text
    jsonb_each jsonb_array_length jsonb_typeof to_json to_jsonb row_to_json unnest array_length array_position
    array_append array_to_string string_to_array cardinality generate_series to_tsvector to_tsquery plainto_tsquery
    websearch_to_tsquery ts_rank
"""
#: Those of SQLite 3.40 with its extensions for mathematics, JSON and FTS5.
_SQLITE: Final = """
    total group_concat json_group_array json_group_object ifnull iif typeof instr unicode hex quote like glob trunc
    log2 random datetime julianday strftime unixepoch json json_extract json_array json_array_length json_type
    json_valid json_each json_tree json_set json_insert json_replace json_remove json_patch json_quote match bm25
    highlight snippet
"""
#: Those of MySQL 8 that MariaDB has too.
_MYSQL: Final = """
    group_concat bit_and bit_or stddev stddev_pop stddev_samp variance var_pop var_samp json_arrayagg json_objectagg
    ifnull if greatest least convert char_length character_length octet_length bit_length concat concat_ws lpad rpad
    left right reverse position locate instr ascii hex unhex quote md5 sha1 sha2 log2 rand uuid now localtime
    localtimestamp utc_timestamp curdate curtime timestamp timediff extract date_format date_add date_sub datediff
    timestampdiff unix_timestamp from_unixtime year month day hour minute second week quarter json_extract
    json_array json_type json_valid json_set json_insert json_replace json_remove json_quote json_unquote
    json_contains json_length json_keys json_value match against
"""
#: sqlglot's name of a dialect -> functions that do nothing but compute a value from their arguments, the clock, or
#: chance. Only those that the database itself has: by another name it calls a function of the user's.
FUNCTIONS: Final = {
    dialect: frozenset(f"{_EVERYWHERE} {names}".upper().split())
    for dialect, names in (("postgres", _POSTGRESQL), ("sqlite", _SQLITE), ("mysql", _MYSQL))
}
#: Functions that MySQL looks for among the user's where something stands before the parenthesis.
_ADJACENT: Final = frozenset(
    """
    bit_and bit_or cast count curdate curtime date_add date_sub extract group_concat max min now position stddev
    stddev_pop stddev_samp substr substring sum trim var_pop var_samp variance
    """.upper().split()
)
#: Functions that change what a sequence gives next.
WRITING: Final = frozenset({"NEXTVAL", "SETVAL"})
#: Words of the language, and types, that stand before a parenthesis.
WORDS: Final = frozenset(
    """
    all and any array as between bigint binary bit blob by case character collate conflict cube dec decimal default
    distinct div double else enum escape except exists filter float for from glob group having ilike in index int
    integer intersect interval into is join key lateral like limit materialized nchar not numeric nvarchar of offset on
    only or over partition precision real recursive regexp returning rlike rollup row select set sets signed smallint
    some symmetric text then timestamptz timetz tinyint to unsigned union using values varbinary varchar varying when
    where xor
    """.upper().split()
)
_OPERATORS_OF_MYSQL: Final = frozenset({"DIV", "REGEXP", "RLIKE", "XOR"})
#: Those that follow something, and that PostgreSQL lets a function be called by.
_NEVER_FIRST: Final = frozenset({"ESCAPE", "ILIKE", "IS", "JOIN", "OVER", "PARTITION", "RECURSIVE", "SET"})
#: Nodes that are neither values nor functions.
STRUCTURE: Final = frozenset(
    """
    alias attimezone cte cube datatype datatypeparam delete distinct except filter from group groupingsets having
    identifier indextablehint insert intersect interval into join jsonpath jsonpathfilter jsonpathkey jsonpathroot
    jsonpathsubscript jsonpathwildcard lateral limit fetch lock merge offset onconflict order ordered returning rollup
    schema select star subquery table tablealias tablesample tuple union update values var when whens where window
    windowspec with withingroup columnposition
    """.lower().split()
)


class Statements(msgspec.Struct, frozen=True):
    """What a text does.

    ``actions``         the action of each statement, none twice; none at all for transaction control
    ``touched_tables``  action and table, as written (``schema.table``), for each table that is touched, in their order;
                        ``None`` where that is not certain
    ``columns``         table and column, for each ``table.column`` that in PostgreSQL is a call of a function where
                        the table has no such column. The table is empty where nobody can know
    ``undeclared``      those of which nobody said that there is such a column, in place of everything but an action
    """

    actions: tuple[str, ...]
    touched_tables: tuple[tuple[str, str], ...] | None = None
    columns: tuple[tuple[str, str], ...] = ()
    undeclared: tuple[tuple[str, str], ...] = ()

    @property
    def strongest(self) -> str:
        """The action that reaches furthest."""
        return MIGRATE if MIGRATE in self.actions else WRITE if WRITE in self.actions else READ


CONTROL: Final = Statements((), ())
OPAQUE: Final = Statements((MIGRATE,))


def read_statements(sql: str, dialect: str, *, functions: frozenset[str] = frozenset()) -> Statements:
    """Tell what ``sql`` does in a database of SQLAlchemy's ``dialect``.

    ``functions`` are names, in upper case, that count as those of :data:`FUNCTIONS` do. Raises nothing: what is not
    understood is opaque.
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
        unicodedata.category(letter)[0] in "ZC" or letter.upper().isascii()
        for letter in set(sql)
        if not letter.isascii()
    )


def _simplified(sql: str) -> str:
    """Write all parameters of ``sql`` alike, and equal rows of them once: a batch of any size is one text.

    Quotes are neither taken away nor added, so a literal stays one, whatever becomes of its content.
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
    columns = tuple(sorted({column for part in parts for column in part.columns}))
    if any(part.touched_tables is None for part in parts):
        return Statements(actions, None, columns)
    touched = tuple(sorted({touched for part in parts for touched in part.touched_tables or ()}))
    return Statements(actions, touched, columns)


def _split(tokens: list[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token.token_type == TokenType.SEMICOLON:
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


def _statement(tokens: list[Token], dialect: str, sql: str, functions: frozenset[str]) -> Statements:
    """Tell what one statement does. Raises whatever sqlglot raises."""
    words = [_word(token) for token in tokens]
    if words[0] not in _FIRST or _opens_too_many_joins(words):
        return OPAQUE
    trees = Dialect.get_or_raise(dialect).parser().parse(tokens, sql)
    tree = trees[0] if len(trees) == 1 else None
    if not isinstance(tree, _ROOTS) or not all(_is_known(node) for node in tree.walk()):
        return OPAQUE
    called = _called(tokens, words, tree, dialect) - FUNCTIONS[dialect] - functions
    if called - WRITING or _passes_over_calls(tree, tokens) or (dialect == "sqlite" and _reads_pragma(tree)):
        return OPAQUE
    writes = bool(called) or tree.find(exp.Into, *DML) is not None
    if not writes and _has_verb(words):
        return OPAQUE
    columns = _qualified(tree, tokens) if dialect == "postgres" else ()
    if columns is None:
        return OPAQUE
    unnamed = called or tree.find(exp.Into)  # what is written has no name here
    return Statements((WRITE if writes else READ,), None if unnamed else touched_tables(tree, dialect), columns)


def _qualified(tree: exp.Expression, tokens: list[Token]) -> tuple[tuple[str, str], ...] | None:
    fold, name = partial(folded, dialect="postgres"), partial(table_name, dialect="postgres")
    return qualified_columns(tree, tokens, fold, name, defined_by)


def _word(token: Token) -> str:
    """Return the token in upper case, of several words the last; nothing for what is quoted."""
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
    """Say whether a statement that reads, by its tree, has a word that would make it write."""
    padded = ["", *words, ""]
    for before, word, after in zip(padded, words, padded[2:], strict=False):
        locks = word == "UPDATE" and before in ("FOR", "KEY")
        if word in _VERBS and before != "." and not locks and (after != "(" or word == "INTO"):
            return True
    return False


def _is_known(node: Any) -> bool:
    return isinstance(node, (exp.Condition, exp.Func)) or node.key in STRUCTURE


def _called(tokens: list[Token], words: list[str], tree: exp.Expression, dialect: str) -> set[str]:
    """Return the functions that are called, by the tokens and by the tree.

    By the tokens that is what stands before a parenthesis, unless it is a word of the language, or a relation with its
    columns. The names are in upper case. What is quoted or has a schema stays as it is, in quotes, and is none that
    could be listed.
    """
    relations = _relations(tree)
    called = {call.name.upper() for call in tree.find_all(*_UNKNOWN)} - {"VALUES"}  # which MySQL calls so in an upsert
    language = WORDS - _OPERATORS_OF_MYSQL if dialect == "postgres" else WORDS
    for index, after in enumerate(words[1:]):
        token, word = tokens[index], words[index]
        if after != "(" or not _is_name(token) or token.text.casefold() in relations:
            continue
        before = words[index - 1] if index else ""
        is_apart = dialect == "mysql" and word in _ADJACENT and tokens[index + 1].start != token.end + 1
        if not word or not word.isascii() or before == "." or is_apart:
            called.add(repr(token.text))
        elif word not in language or (dialect == "postgres" and word in _NEVER_FIRST and before in (",", "(")):
            called.add(word)
    return called


def _passes_over_calls(tree: exp.Expression, tokens: list[Token]) -> bool:
    """Say whether the parser took a call for something else: for a column, or for a table that lists its columns."""
    if any(alias.args.get("this") is None and alias.args.get("columns") for alias in tree.find_all(exp.TableAlias)):
        return True
    ends = {column.this.meta.get("end") for column in tree.find_all(exp.Column)}
    return any(token.end in ends and after.token_type == TokenType.L_PAREN for token, after in pairwise(tokens))


def _is_name(token: Token) -> bool:
    """Say whether this may name a function. In a mode of MySQL's, a text in double quotes may."""
    if token.token_type in (TokenType.IDENTIFIER, TokenType.STRING):
        return True
    last = token.text[-1:]
    return last.isalnum() or last in ("_", "$") or not last.isascii()


def _relations(tree: exp.Expression) -> set[str]:
    """Return names that a list of columns may follow, and that no function of the tree has."""
    named = {
        relation.this.name.casefold()
        for relation in tree.find_all(exp.Table, exp.TableAlias)
        if isinstance(relation.this, exp.Identifier)
    }
    for call in tree.find_all(exp.Func):
        named.difference_update(
            name.casefold() for name in ([call.name] if isinstance(call, _UNKNOWN) else call.sql_names())
        )
    return named


def _reads_pragma(tree: exp.Expression) -> bool:
    """Say whether a PRAGMA of SQLite is read as a table."""
    return any(table.name.lower().startswith("pragma_") for table in tree.find_all(exp.Table))
