"""JSON as our own codec reads and writes it: the same as the json package, or a refusal that says where."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.document import decode, encode
from lamina.errors import InvalidInput

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), values, max_size=4))
def test_what_is_written_is_read_back_by_both(value: dict[str, object]) -> None:
    assert decode(encode(value).encode(), "it") == json.loads(encode(value)) == value


@given(st.dictionaries(st.text(), values, max_size=4), st.sampled_from([None, 2]))
def test_what_json_writes_is_read(value: dict[str, object], indent: int | None) -> None:
    for ascii_only in (True, False):
        text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
        assert decode(text.encode("utf-8", "surrogatepass") if ascii_only else text.encode(), "it") == value


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "read it: not JSON: Expecting value: line 1 column 1"),
        (b"{", "read it: not JSON: Expecting property name"),
        (b'{"a":}', "read it: not JSON: Expecting value: line 1 column 6"),
        (b'{"a":1,}', "read it: not JSON: .*line 1 column"),
        (b"{} {}", "read it: not JSON: more after the end of the document, at character 2"),
        (b"[1]", "read it: not a JSON object"),
        (b'{"a":NaN}', "read it: not JSON: NaN is no JSON"),
        (b"\xff", "read it: not JSON: 'utf-8' codec"),
        (b'{"a":' + b"[" * 100_000, "read it: not JSON: nested too deeply"),
    ],
)
def test_what_is_no_json_object_is_refused_with_the_place(data: bytes, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        decode(data, "it")


@pytest.mark.parametrize(
    "text", ["", "plain", 'a"b', "back\\slash", "line\n", "\x7f", "\x00", "é", "\udcff", "~ !"]
)
def test_strings_are_written_as_json_writes_them(text: str) -> None:
    assert encode(text) == json.dumps(text) and encode({text: [text]}) == json.dumps(
        {text: [text]}, separators=(",", ":")
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, {b"key": 1}, {(1,): 2}, object()])
def test_what_is_none_of_its_kinds_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        encode({"field": [value]})
