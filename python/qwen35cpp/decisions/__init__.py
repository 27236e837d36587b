"""Typed decisions: which of a few answers a model thinks likely, without generating any.

    text, team=["billing", "bug"], urgent=bool ─> fields.py   labels and a question for each field
                                                └> decide.py   one prompt, read once for all fields
    Decision <─ probabilities <─ labels.py <───────┘           the likelihood of every label

The text is read once. With several fields the session is copied there, and goes back to it for the
question of each. Labels of several tokens are continuations that leave the session as it is; they
are evaluated in the pass that reads the end of the prompt, or of the question. score.py measures
any continuation, rank.py orders documents; methods.py has what users call. Nothing is imported
here.
"""
