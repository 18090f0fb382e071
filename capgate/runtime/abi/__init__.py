"""Speaks the policy ABIs: brings a question into a guest, and its answer out. Read ``canonical_abi.py`` first."""
