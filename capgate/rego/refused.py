"""The builtins of OPA that are not provided, and why."""

from __future__ import annotations

from .base import refuse

refuse("it does network requests; a policy knows nothing but its input", "http.send", "net.lookup_ip_addr")
refuse("its result is random; a policy is to answer the same question alike", "rand.intn", "uuid.rfc4122")
refuse("it shows the environment and configuration of the process", "opa.runtime")
refuse(
    "signatures of some algorithms are random, and a key to sign with does not belong in a policy",
    "io.jwt.encode_sign",
    "io.jwt.encode_sign_raw",
    "providers.aws.sign_req",
)
refuse("it needs OPA's parser of Rego", "rego.parse_module", "rego.metadata.chain", "rego.metadata.rule")
refuse(
    "it needs the GraphQL library that OPA uses, whose syntax trees are its results",
    "graphql.is_valid",
    "graphql.parse",
    "graphql.parse_and_verify",
    "graphql.parse_query",
    "graphql.parse_schema",
    "graphql.schema_is_valid",
)
refuse(
    "its results are the fields, in their order and form, of Go's own structures",
    "crypto.parse_private_keys",
    "crypto.x509.parse_and_verify_certificates",
    "crypto.x509.parse_and_verify_certificates_with_options",
    "crypto.x509.parse_certificate_request",
    "crypto.x509.parse_certificates",
    "crypto.x509.parse_keypair",
    "crypto.x509.parse_rsa_private_key",
)
refuse("its results are the messages of the library that OPA uses", "json.match_schema", "json.verify_schema")
refuse("line breaks and quotes are those of the library that OPA uses", "yaml.marshal")
refuse("it needs the reader of package URLs that OPA uses", "purl.is_valid", "purl.parse")
refuse("it needs Go's text/template", "strings.render_template")
refuse("it needs the library for intersections of globs that OPA uses", "regex.globs_match")
refuse("it is for OPA's own tests", "internal.test_case")
