"""Holds what the tests of several rooms use."""
