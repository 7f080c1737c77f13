"""The one exception for what a user can mend: its text is one sentence, shown without a traceback."""


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what would be right."""
