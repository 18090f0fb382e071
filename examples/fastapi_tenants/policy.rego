# The same policy as policy.toml. The question is `input`, in the shape of the fixtures:
#
#     {"action": "invoice.pay",
#      "actor": {"kind": "user", "id": "ada", "roles": ["accountant"], "scopes": [], "attributes": {"tenant": "acme"}},
#      "resource": {"kind": "invoice", "id": "1", "attributes": {"tenant": "acme", "owner": "ben", "total": 5000}},
#      "args": {"amount": 5000}, "timestamp": 1798761600000000000, ...}
#
# A fact that is absent leaves a rule undefined. So an allow does not hold, and for each denial it is said what it has to
# know: without that it denies.
package invoices

default decision := {"allow": false, "reason": "not_in_allowlist"}

decision := {"allow": false, "reason": "unknown_action"} if {
	not input.action in actions
} else := {"allow": false, "reason": "missing_resource"} if {
	input.action in of_the_database
	not is_string(input.resource.id)
} else := {"allow": false, "reason": tenant_reason} if {
	tenant_reason
} else := {"allow": false, "reason": amount_reason} if {
	amount_reason
} else := {"allow": false, "reason": "the books are closed"} if {
	input.action in {"invoice.delete", "invoice.draft", "invoice.pay"}
	input.timestamp >= 4102444800000000000 # 2100-01-01T00:00:00Z
} else := {"allow": true} if {
	admitted
}

of_an_invoice := {"invoice.delete", "invoice.pay", "invoice.read"}

of_the_database := {"db.migrate", "db.read", "db.write"}

actions := of_an_invoice | of_the_database | {"invoice.draft", "invoice.list"}

# -- facts: undefined where they are absent, or of another type

own_tenant := tenant if {
	tenant := input.actor.attributes.tenant
	is_string(tenant)
}

tenant_of := tenant if {
	tenant := input.resource.attributes.tenant
	is_string(tenant)
}

total := cents if {
	cents := input.resource.attributes.total
	is_number(cents)
}

amount := cents if {
	cents := input.args.amount
	is_number(cents)
}

# -- denials

tenant_reason := "missing_fact" if {
	input.action in of_an_invoice
	not both_tenants_known
} else := "an invoice of another tenant" if {
	input.action in of_an_invoice
	tenant_of != own_tenant
}

both_tenants_known if {
	is_string(own_tenant)
	is_string(tenant_of)
}

amount_reason := "missing_fact" if {
	input.action == "invoice.pay"
	not both_amounts_known
} else := "more than is owed" if {
	input.action == "invoice.pay"
	amount > total
}

both_amounts_known if {
	is_number(amount)
	is_number(total)
}

# -- allows

admitted if {
	input.action in {"invoice.draft", "invoice.list"}
	input.resource.id == own_tenant
}

admitted if {
	input.action == "invoice.read"
	"accountant" in input.actor.roles
}

admitted if {
	input.action == "invoice.read"
	is_owner
}

admitted if {
	input.action == "invoice.pay"
	amount > 0
	"manager" in input.actor.roles
}

admitted if {
	input.action == "invoice.pay"
	amount > 0
	amount <= 100000
	"accountant" in input.actor.roles
}

admitted if {
	input.action == "invoice.delete"
	is_owner
	input.resource.attributes.paid == false
}

admitted if {
	input.action in {"db.read", "db.write"}
	input.resource.kind == "sql_query"
	input.resource.id == "invoices"
	own_tenant != ""
}

is_owner if {
	is_string(input.actor.id)
	input.resource.attributes.owner == input.actor.id
}
