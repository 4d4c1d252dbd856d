"""ray_distil: distil slow-thinking teachers into fast-thinking students on Ray."""

__version__ = "0.1.0"


class UserError(Exception):
    """A mistake in the configuration or the input: the message (one or two lines) says what is wrong and what to do.

    Entry points print the message alone and exit with code 2.
    """
