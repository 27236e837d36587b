"""Typed decisions: which of a few answers a model thinks likely, without generating any.

    text, team=["billing", "bug"], urgent=bool ─> fields.py   labels and a question for each field
                                                └> decide.py   one prompt, read once for all fields
    Decision <─ probabilities <─ labels.py <───────┘           the likelihood of every label

The text is read once. The session is copied there, and goes back to it for the question of each
field; labels of several tokens are continuations that leave it as it is. score.py measures any
continuation, rank.py orders documents; methods.py has what users call. Nothing is imported here.
"""
