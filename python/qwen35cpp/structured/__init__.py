"""Structured output: text that must follow a JSON schema, a regular expression or a choice.

    schema=, regex=, choice= ─> formats.py ─> grammar.py ─> matcher.py ─> allowed tokens
           a class ─> classes.py ──┘  the finished text is checked and parsed, see Format

llguidance computes which tokens may come next; jsonschema-rs checks the finished text again. Both
and msgspec are the extra "schema". What they cannot do is refused: nothing is ever generated
without its limits. Nothing is imported here, so that who needs plain text does not wait for it.
"""
