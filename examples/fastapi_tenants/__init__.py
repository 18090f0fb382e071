"""Invoices of several tenants: who may do what depends on facts of a JWT, of a row in a database, and of a body."""
