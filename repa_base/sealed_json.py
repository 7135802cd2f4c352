"""JSON that tells whether it is as it was written: a value beside the SHA-256 of its own text."""

import hashlib
import json
from typing import Any

_SEAL, _VALUE = "sha256", "value"


def sealed(value: Any) -> str:  # noqa: ANN401
    """Return a JSON text of a value that JSON can hold, for `unsealed`."""
    return json.dumps({_SEAL: _digest(value), _VALUE: value})


def unsealed(text: bytes) -> Any:  # noqa: ANN401
    """Return the value that was sealed.

    Raises:
        ValueError: The text is not JSON, was not sealed, or has another value now.
    """
    try:
        content = json.loads(text)
        intact = content[_SEAL] == _digest(content[_VALUE])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError("the text was not sealed, or is damaged") from error
    if not intact:
        raise ValueError("the text is not as it was sealed")
    return content[_VALUE]


def _digest(value: Any) -> str:  # noqa: ANN401
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
