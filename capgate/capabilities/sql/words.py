"""Words that :mod:`capgate.capabilities.sql.statements` knows. What is not listed here is not understood."""

from __future__ import annotations

from typing import Final

#: Functions that do nothing but compute a value from their arguments, the clock, or chance.
FUNCTIONS: Final = frozenset(
    """
    count sum avg min max total group_concat string_agg array_agg any_value bool_and bool_or every bit_and bit_or
    stddev stddev_pop stddev_samp variance var_pop var_samp corr percentile_cont percentile_disc mode grouping
    json_agg jsonb_agg json_object_agg jsonb_object_agg json_group_array json_group_object json_arrayagg json_objectagg
    row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
    coalesce nullif ifnull iif if greatest least typeof cast try_cast convert
    lower upper length char_length character_length octet_length bit_length trim ltrim rtrim btrim substr substring
    replace concat concat_ws lpad rpad left right reverse position locate instr strpos initcap ascii chr char unicode
    hex unhex quote translate split_part starts_with like glob md5 sha1 sha2 sha256 encode decode
    abs ceil ceiling floor round trunc sign mod power pow sqrt exp ln log log10 log2 pi degrees radians
    sin cos tan asin acos atan atan2 random rand gen_random_uuid uuid
    now current_timestamp current_date current_time localtime localtimestamp utc_timestamp curdate curtime date time
    datetime timestamp julianday strftime unixepoch timediff date_trunc date_part extract age to_char to_date
    to_timestamp to_number make_date make_interval date_format date_add date_sub datediff timestampdiff unix_timestamp
    from_unixtime year month day hour minute second week quarter
    json json_extract json_array json_object json_array_length json_type json_valid json_each json_tree json_set
    json_insert json_replace json_remove json_patch json_quote json_unquote json_contains json_length json_keys
    json_value json_build_object json_build_array jsonb_build_object jsonb_build_array jsonb_set json_extract_path
    json_extract_path_text jsonb_extract_path jsonb_extract_path_text json_array_elements jsonb_array_elements
    jsonb_array_elements_text jsonb_each jsonb_array_length jsonb_typeof to_json to_jsonb row_to_json
    unnest array_length array_position array_append array_to_string string_to_array cardinality generate_series
    match against to_tsvector to_tsquery plainto_tsquery websearch_to_tsquery ts_rank bm25 highlight snippet
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
