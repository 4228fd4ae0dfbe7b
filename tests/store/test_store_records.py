"""Records: JSON that json reads back, whole or not at all, whatever bytes are in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.document import encode
from lamina.errors import Corrupt
from lamina.store import record

texts = st.text(alphabet=st.characters(), max_size=20)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_what_is_written_is_what_json_reads(value: object) -> None:
    assert json.loads(encode(value)) == value


@given(st.binary(max_size=40))
def test_bytes_come_back_as_they_were(data: bytes) -> None:
    assert os.fsencode(json.loads(encode({"x": data}))["x"]) == data


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), float("inf"), [1j]])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        encode(value)


def test_tuples_are_lists() -> None:
    assert json.loads(encode({"a": (1, ("b",))})) == {"a": [1, ["b"]]}


def test_a_reader_sees_the_old_record_or_the_new_one(tmp_path: Path) -> None:
    here = os.fsencode(tmp_path)
    record.write(here, b"r.json", {"n": 1})
    (tmp_path / "r.json.new").write_text("torn")  # somebody died here
    assert record.read(here, b"r.json") == {"n": 1}
    record.write(here, b"r.json", {"n": 2})
    assert record.read(here, b"r.json") == {"n": 2}
    assert (tmp_path / "r.json").stat().st_mode & 0o777 == 0o600


def test_a_record_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        record.write(os.fsencode(tmp_path), b"r.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "r.json").stat().st_mode & 0o777 == 0o600


def test_no_record_is_none(tmp_path: Path) -> None:
    assert record.read(os.fsencode(tmp_path), b"r.json") is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_damaged_record_is_said_to_be(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "r.json").write_bytes(data)
    with pytest.raises(Corrupt, match=r"r\.json"):
        record.read(os.fsencode(tmp_path), b"r.json")


def test_an_endless_record_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "r.json", "wb") as file:
        file.truncate(record.LARGEST + 1)
    with pytest.raises(Corrupt):
        record.read(os.fsencode(tmp_path), b"r.json")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    (tmp_path / "r.json").symlink_to("elsewhere")
    with pytest.raises(OSError):
        record.read(os.fsencode(tmp_path), b"r.json")
