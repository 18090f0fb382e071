# Which statements of the orders database may run. The question is `input`, in the shape of the fixtures:
#
#     {"action": "db.write", "actor": {"kind": "user", "id": "ana"},
#      "resource": {"kind": "sql_query", "id": "refund_order", "attributes": {}},
#      "args_hash": null, "env": {"service": "orders", "mode": "prod"}, "timestamp": 0}
#
# An answer is a boolean, or an object with `allow` and, if it denies, a `reason`. Anything else denies, and so does
# a rule that is undefined.
package orders

default decision := {"allow": false, "reason": "not_in_allowlist"}

decision := {"allow": false, "reason": "unknown_action"} if {
	not known
} else := {"allow": false, "reason": "missing_resource"} if {
	not complete
} else := {"allow": false, "reason": "the books are closed"} if {
	frozen
} else := {"allow": true} if {
	admitted
}

known if input.action in object.keys(data.orders.queries)

complete if is_string(input.resource.id)

frozen if {
	input.action == "db.write"
	input.resource.kind == "sql_query"
	input.env.mode == "frozen"
}

admitted if {
	input.resource.kind == "sql_query"
	input.resource.id in data.orders.queries[input.action]
}

admitted if {
	input.action == "db.write"
	input.resource.kind == "sql_query"
	input.resource.id == "refund_order"
	{"kind": input.actor.kind, "id": input.actor.id} in data.orders.refunders
}
