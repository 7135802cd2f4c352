"""Sealed JSON: what comes back is what was sealed, or an error."""

import json

import pytest

from repa_base.checksums import sealed_text, unsealed_text

VALUE = {"a": [1, 2.5, -0.0, 1e300, None, True], "name": "h\xe9llo \udc80", "deep": {"b": {}}}


def test_a_value_comes_back_as_it_was():
    assert unsealed_text(sealed_text(VALUE).encode()) == json.loads(json.dumps(VALUE))


def test_every_change_of_a_byte_that_changes_the_value_is_refused():
    text = sealed_text(VALUE).encode()
    for place in range(len(text)):
        for bit in (1, 2, 16, 64, 128):
            changed = bytearray(text)
            changed[place] ^= bit
            try:
                found = unsealed_text(bytes(changed))
            except ValueError as error:
                assert "sealed" in str(error)
            else:
                assert found == json.loads(text)["value"]


UNSEALED = (b"", b"{", b"[]", b"1", b'{"value": 1}', b'{"sha256": 1}', b"\xff", b"9" * 5000)
DEEP = (b"[" * 200_000, b'{"sha256": "", "value": ' + b'{"a":' * 200_000)


@pytest.mark.parametrize("text", (*UNSEALED, *DEEP, json.dumps(VALUE).encode()))
def test_what_was_not_sealed_is_a_value_error(text):
    with pytest.raises(ValueError, match="not sealed"):
        unsealed_text(text)
