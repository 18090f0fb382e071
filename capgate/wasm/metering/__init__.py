"""Makes modules pay fuel for what they do, and proves that they do.

Uses the decoder of ``wasm``. Read ``meter.py`` first.
"""
