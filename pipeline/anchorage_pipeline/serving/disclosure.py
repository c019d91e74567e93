"""What a caller is told of an error, and what only the operator's log has."""

import logging

from anchorage.errors import AnchorageError, ResourceError

_OF_THE_REQUEST = ("E_DEADLINE", "E_NOT_READY", "E_OVERLOADED")
_log = logging.getLogger(__name__)


def public_message(error: AnchorageError) -> str:
    """Return the message of an error for whoever called.

    Errors of what the service depends on, such as a database, name its hosts, users and paths: these go to the log.
    """
    if not isinstance(error, ResourceError) or error.code in _OF_THE_REQUEST:
        return error.message
    _log.warning("%s", error)
    return "Expected all that the service depends on to answer. Received: an error, which the log of the service has"
