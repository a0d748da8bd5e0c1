"""The one error a user is meant to see."""


class UserError(Exception):
    """Something the user can put right: shown as one or two plain lines, exit status 2, no traceback."""
