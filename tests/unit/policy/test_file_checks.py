"""Files that cannot be what their names say, told by their own bytes; and right ones, of which nothing is told."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hffs.formats import POINTER_BELOW, pointer_of
from hffs.policy import is_tiny, problem_of
from tests.support.profile import examples

OID = "ab" * 32
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 548105171\n".encode()


def problem(path: str, data: bytes) -> tuple[str, str] | None:
    def read(start: int, stop: int) -> bytes:
        assert 0 <= start <= stop <= len(data), "it reads what is not there"
        return data[start:stop]

    found = problem_of(path, len(data), read)
    return None if found is None else (found.kind, found.what)


def kind(path: str, data: bytes) -> str | None:
    found = problem(path, data)
    return found[0] if found else None


def safetensors(size: int = 4096, **header: object) -> bytes:
    text = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def gguf(size: int, offset: int, version: int = 3) -> bytes:
    head = struct.pack("<4sIQQ", b"GGUF", version, 1, 0)
    head += struct.pack("<Q", 1) + b"w" + struct.pack("<IQIQ", 1, 64, 0, offset)
    return head.ljust(size, b"\0")


def zipped() -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("archive/data.pkl", bytes(500))
            made.comment = b"PK\5\6 is no end"
        return file.getvalue()


@pytest.mark.parametrize("end", ["9" * 4300, "-1"])
def test_a_tensor_where_none_can_be_is_told_in_few_words(end: str) -> None:
    text = b'{"w": {"data_offsets": [0, %s]}}' % end.encode()
    found = problem("a.safetensors", struct.pack("<Q", len(text)) + text + bytes(400))
    assert found == ("structure", "is no safetensors file: its header names a tensor with impossible offsets")


@pytest.mark.parametrize("path", ["a.safetensors", "a.gguf", "a.json", "a.zip", "a.bin", "a.parquet"])
def test_a_file_that_is_cut_off_meanwhile_raises_nothing(path: str) -> None:
    assert problem_of(path, 4096, lambda start, stop: b"GGUF"[start:stop]) is not None or path == "a.bin"


def test_a_gguf_file_that_is_cut_off_meanwhile_is_not_read_for_ever() -> None:
    data, asked = gguf(4096, 64), list[int]()

    def read(start: int, stop: int) -> bytes:
        asked.append(stop)
        assert len(asked) < 100
        return data[start : min(stop, 30)]

    assert problem_of("a.gguf", 4096, read) is None


# git-LFS pointers.


def test_a_pointer_is_known_by_its_first_line_and_says_what_it_stands_for() -> None:
    pointer = pointer_of(POINTER, len(POINTER))
    assert pointer is not None
    assert (pointer.sha256, pointer.size) == (OID, 548105171)
    windows = pointer_of(POINTER.replace(b"\n", b"\r\n"), len(POINTER) + 3)
    assert windows is not None
    assert windows.size == 548105171


def test_a_pointer_that_says_nothing_more_is_one_all_the_same() -> None:
    pointer = pointer_of(b"version https://git-lfs.github.com/spec/v1\n", 43)
    assert pointer is not None
    assert (pointer.sha256, pointer.size) == (None, None)


@pytest.mark.parametrize(
    "data",
    [
        POINTER.ljust(POINTER_BELOW),
        b"\n" + POINTER,
        POINTER.replace(b"spec/v1", b"spec/v12"),
        b"",
        b"version 1\n",
    ],
    ids=["too long", "not at the beginning", "another version", "empty", "another file"],
)
def test_anything_else_is_no_pointer(data: bytes) -> None:
    assert pointer_of(data, len(data)) is None


@pytest.mark.parametrize("path", ["model.safetensors", "a/pytorch_model.bin", "tokenizer.json", "data.csv"])
def test_a_pointer_is_told_whatever_the_file_is_called(path: str) -> None:
    assert problem(path, POINTER) == (
        "pointer",
        "is a git-LFS pointer, not the content of 548105171 bytes it stands for",
    )


# Weights of too few bytes.


@pytest.mark.parametrize("name", ["m.bin", "m.GGUF", "deep/m.onnx", "m.h5", "m.msgpack", "m.ckpt", "m.pt", "m.pth"])
def test_weights_below_200_bytes_are_suspicious(name: str) -> None:
    assert kind(name, bytes(199)) == "tiny"
    assert is_tiny(name, 199)
    assert not is_tiny(name, 200)


def test_other_files_may_be_small() -> None:
    assert kind("README.md", b"") is None
    assert kind("vocab.txt", b"a") is None
    assert kind("config.json", b"{}") is None


# Headers.


def test_a_safetensors_file_ends_where_its_last_tensor_does() -> None:
    right = safetensors(__metadata__={"format": "pt"})
    assert problem("m.safetensors", right) is None
    cut = problem("m.safetensors", right[:-1])
    assert cut == ("structure", f"has {len(right) - 1} bytes, and its tensors end at byte {len(right)}")
    assert kind("m.safetensors", right + b"\0") == "structure"


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 1 << 62).ljust(300, b"x"),
        struct.pack("<Q", 20).ljust(300, b"x"),
        struct.pack("<Q", 2) + b"[]".ljust(300),
        safetensors(x={"dtype": "U8"}),
        safetensors(x={"data_offsets": [0, "1"]}),
        safetensors(x=3),
        b"<!DOCTYPE html><html>".ljust(300),
    ],
    ids=["a header beyond the end", "no JSON", "a list", "no place", "no numbers", "no tensor", "an error page"],
)
def test_what_is_no_safetensors_file_is_told(data: bytes) -> None:
    assert kind("m.safetensors", data) == "structure"


@pytest.mark.parametrize("version", [2, 3])
def test_a_gguf_file_is_long_enough_for_its_tensors(version: int) -> None:
    assert problem("m.gguf", gguf(1000, 512, version)) is None
    found = problem("m.gguf", gguf(1000, 4096, version))
    assert found is not None
    assert found[1].startswith("is truncated: it has 1000 bytes, and needs more than ")
    no_tensors = struct.pack("<4sIQQ", b"GGUF", version, 0, 0).ljust(300, b"\xff")
    assert kind("m.gguf", no_tensors) is None, "it cannot be told"


def test_a_gguf_header_that_is_cut_is_told() -> None:
    head = struct.pack("<4sIQQ", b"GGUF", 3, 40, 0)
    assert kind("m.gguf", head.ljust(300, b"\0")) == "structure"


def test_what_is_no_gguf_file_is_told() -> None:
    assert kind("m.gguf", b"GGML".ljust(300, b"\0")) == "structure"
    assert kind("m.gguf", gguf(300, 0, version=77)) == "structure"


@pytest.mark.parametrize("data", [b"{", b"", b"<html>", b"\xff\xfe\xff", b"[" * 100_000, b'{"a": 1}\n{"b": \n'])
def test_json_that_is_none_is_told(data: bytes) -> None:
    assert kind("a.json", data) == "structure"


@pytest.mark.parametrize("data", [b"{}", b"\xef\xbb\xbf{}", b"[1, NaN]", b'{"a": 1}\n{"b": 2}\n', b'"x"'])
def test_json_and_json_lines_are_right(data: bytes) -> None:
    assert kind("a.json", data) is None


@pytest.mark.parametrize("name", ["m.bin", "m.pt", "m.npz", "a.zip"])
def test_a_zip_file_has_its_directory(name: str) -> None:
    data = zipped()
    assert problem(name, data) is None
    assert kind(name, data[:-40]) == "structure"


def test_weights_that_are_no_zip_file_may_be_anything_but_npz_may_not() -> None:
    assert kind("m.bin", b"\x80\x02".ljust(300)) is None
    assert kind("m.npz", b"\x80\x02".ljust(300)) == "structure"


def test_a_parquet_file_begins_and_ends_as_one() -> None:
    assert kind("a.parquet", b"PAR1" + bytes(100) + b"PAR1") is None
    assert kind("a.parquet", b"PAR1" + bytes(100)) == "structure"
    assert kind("a.parquet", bytes(100) + b"PAR1") == "structure"


@settings(max_examples=examples(300), deadline=None)
@given(
    st.sampled_from(["a.safetensors", "a.gguf", "a.json", "a.bin", "a.npz", "a.parquet", "a"]),
    st.one_of(
        st.binary(max_size=400),
        st.binary(max_size=60).map(lambda more: safetensors(300) + more),
        st.binary(max_size=60).map(lambda more: gguf(300, 128)[:40] + more),
        st.binary(max_size=60).map(lambda more: zipped()[:300] + more),
    ),
)
def test_whatever_a_file_holds_it_is_looked_at_without_an_error(path: str, data: bytes) -> None:
    problem(path, data)
