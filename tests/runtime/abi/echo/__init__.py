"""A guest of ``capgate:policy@0.2.0`` that says what it was asked, and what it says of a question."""
