"""The failure that only training knows."""

from sso_data.core.errors import SsoDataError


class TrainError(SsoDataError):
    """Training cannot start on these rows, or must not go on."""
