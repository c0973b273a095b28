import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_plugins import artefacts
from icl_plugins.artefacts import atomic_write, canonical_json, fingerprint
from icl_plugins.errors import ArtefactError, DataError

PARTS = st.lists(st.text() | st.binary(), max_size=4)


@given(PARTS, PARTS)
@settings(max_examples=200, deadline=None)
def test_fingerprints_agree_exactly_when_the_parts_do(first, second):
    assert (fingerprint(*first) == fingerprint(*second)) == (first == second)


def test_parts_cannot_run_together():
    assert (
        len({fingerprint("ab", "c"), fingerprint("a", "bc"), fingerprint("abc"), fingerprint("abc", "")}) == 4
    )
    assert fingerprint("a") != fingerprint(b"a")
    assert fingerprint("\ud800") != fingerprint("?")


def test_json_is_the_same_for_any_order_of_keys():
    assert (
        canonical_json({"b": 1, "a": [1, "é"]})
        == canonical_json({"a": [1, "é"], "b": 1})
        == '{"a":[1,"é"],"b":1}'
    )


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {1: 2}, [{None: 1}], b"x", object(), {"a": {1, 2}}]
)
def test_json_refuses_what_it_cannot_hold(value):
    with pytest.raises(DataError, match="JSON"):
        canonical_json(value)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    atomic_write(path, "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artefacts.os, "fsync", full)
    with pytest.raises(ArtefactError, match="No space left"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_text_is_written_byte_for_byte_and_readable_by_others(tmp_path):
    path = tmp_path / "a.txt"
    atomic_write(path, "a\r\nb\né\x00")
    assert path.read_bytes() == "a\r\nb\né\x00".encode()
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_symbolic_link_keeps_pointing_at_its_file(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("where", ["missing/a.json", "file/a.json", "folder"])
def test_an_unwritable_place_is_a_typed_error(tmp_path, where):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtefactError, match="cannot write"):
        atomic_write(tmp_path / where, "x")
