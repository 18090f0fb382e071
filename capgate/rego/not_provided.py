"""Lists the builtins of OPA that are not provided, and why."""

from __future__ import annotations

from .base import leave_out

leave_out("it does network requests; a policy knows nothing but its input", "http.send", "net.lookup_ip_addr")
leave_out("its result is random; a policy is to answer the same question alike", "rand.intn", "uuid.rfc4122")
leave_out("it shows the environment and configuration of the process", "opa.runtime")
leave_out(
    "signatures of some algorithms are random, and a key to sign with does not belong in a policy",
    "io.jwt.encode_sign",
    "io.jwt.encode_sign_raw",
    "providers.aws.sign_req",
)
leave_out("it needs OPA's parser of Rego", "rego.parse_module", "rego.metadata.chain", "rego.metadata.rule")
leave_out(
    "it needs the GraphQL library that OPA uses, whose syntax trees are its results",
    "graphql.is_valid",
    "graphql.parse",
    "graphql.parse_and_verify",
    "graphql.parse_query",
    "graphql.parse_schema",
    "graphql.schema_is_valid",
)
leave_out(
    "its results are the fields, in their order and form, of Go's own structures",
    "crypto.parse_private_keys",
    "crypto.x509.parse_and_verify_certificates",
    "crypto.x509.parse_and_verify_certificates_with_options",
    "crypto.x509.parse_certificate_request",
    "crypto.x509.parse_certificates",
    "crypto.x509.parse_keypair",
    "crypto.x509.parse_rsa_private_key",
)
leave_out("its results are the messages of the library that OPA uses", "json.match_schema", "json.verify_schema")
leave_out("line breaks and quotes are those of the library that OPA uses", "yaml.marshal")
leave_out("it needs the reader of package URLs that OPA uses", "purl.is_valid", "purl.parse")
leave_out("it needs Go's text/template", "strings.render_template")
leave_out("it needs the library for intersections of globs that OPA uses", "regex.globs_match")
leave_out("it is for OPA's own tests", "internal.test_case")
