"""The one error a user is meant to see."""


class UserError(Exception):
    """Something the user can put right: one or two plain lines, exit status 2, no traceback."""


class OutOfMemory(UserError):
    """A single prompt does not fit into memory, whatever else is left out."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever started the run wants it to end, as with Ctrl-C."""
