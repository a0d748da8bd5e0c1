"""The one error a user is meant to see."""


class UserError(Exception):
    """Something the user can put right: one or two plain lines, exit status 2, no traceback."""
