"""What a judge may fail at as a whole."""

from sso_data.core.errors import SsoDataError


class JudgeError(SsoDataError):
    """A judge cannot judge: a function of the user's fails or answers something else."""
