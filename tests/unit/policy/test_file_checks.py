"""Files that cannot be what their names say, and valid files."""

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
        assert 0 <= start <= stop <= len(data), "a read past the end"
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
def test_a_tensor_with_huge_offsets_gives_a_short_message(end: str) -> None:
    text = b'{"w": {"data_offsets": [0, %s]}}' % end.encode()
    found = problem("a.safetensors", struct.pack("<Q", len(text)) + text + bytes(400))
    assert found == ("structure", "is no safetensors file: its header names a tensor with impossible offsets")


@pytest.mark.parametrize("path", ["a.safetensors", "a.gguf", "a.json", "a.zip", "a.bin", "a.parquet"])
def test_a_file_truncated_while_it_is_read_raises_nothing(path: str) -> None:
    assert problem_of(path, 4096, lambda start, stop: b"GGUF"[start:stop]) is not None or path == "a.bin"


def test_a_gguf_file_truncated_while_it_is_read_ends_the_check() -> None:
    data, stops = gguf(4096, 64), list[int]()

    def read(start: int, stop: int) -> bytes:
        stops.append(stop)
        assert len(stops) < 100
        return data[start : min(stop, 30)]

    assert problem_of("a.gguf", 4096, read) is None


# git-LFS pointers.


def test_a_pointer_is_detected_by_its_first_line_and_names_its_content() -> None:
    pointer = pointer_of(POINTER, len(POINTER))
    assert pointer is not None
    assert (pointer.sha256, pointer.size) == (OID, 548105171)
    windows = pointer_of(POINTER.replace(b"\n", b"\r\n"), len(POINTER) + 3)
    assert windows is not None
    assert windows.size == 548105171


def test_a_pointer_without_oid_and_size_is_a_pointer() -> None:
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
def test_other_content_is_no_pointer(data: bytes) -> None:
    assert pointer_of(data, len(data)) is None


@pytest.mark.parametrize("path", ["model.safetensors", "a/pytorch_model.bin", "tokenizer.json", "data.csv"])
def test_a_pointer_is_detected_under_any_file_name(path: str) -> None:
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


def test_a_safetensors_file_ends_with_its_last_tensor() -> None:
    whole = safetensors(__metadata__={"format": "pt"})
    assert problem("m.safetensors", whole) is None
    cut = problem("m.safetensors", whole[:-1])
    assert cut == ("structure", f"has {len(whole) - 1} bytes, and its tensors end at byte {len(whole)}")
    assert kind("m.safetensors", whole + b"\0") == "structure"


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
def test_an_invalid_safetensors_header_is_a_problem(data: bytes) -> None:
    assert kind("m.safetensors", data) == "structure"


@pytest.mark.parametrize("version", [2, 3])
def test_a_gguf_file_contains_the_start_of_its_last_tensor(version: int) -> None:
    assert problem("m.gguf", gguf(1000, 512, version)) is None
    found = problem("m.gguf", gguf(1000, 4096, version))
    assert found is not None
    assert found[1].startswith("is truncated: it has 1000 bytes, and needs more than ")
    no_tensors = struct.pack("<4sIQQ", b"GGUF", version, 0, 0).ljust(300, b"\xff")
    assert kind("m.gguf", no_tensors) is None, "its size cannot be judged"


def test_a_truncated_gguf_header_is_a_problem() -> None:
    head = struct.pack("<4sIQQ", b"GGUF", 3, 40, 0)
    assert kind("m.gguf", head.ljust(300, b"\0")) == "structure"


def test_an_invalid_gguf_file_is_a_problem() -> None:
    assert kind("m.gguf", b"GGML".ljust(300, b"\0")) == "structure"
    assert kind("m.gguf", gguf(300, 0, version=77)) == "structure"


@pytest.mark.parametrize("data", [b"{", b"", b"<html>", b"\xff\xfe\xff", b"[" * 100_000, b'{"a": 1}\n{"b": \n'])
def test_invalid_json_is_a_problem(data: bytes) -> None:
    assert kind("a.json", data) == "structure"


@pytest.mark.parametrize("data", [b"{}", b"\xef\xbb\xbf{}", b"[1, NaN]", b'{"a": 1}\n{"b": 2}\n', b'"x"'])
def test_json_and_json_lines_are_no_problem(data: bytes) -> None:
    assert kind("a.json", data) is None


@pytest.mark.parametrize("name", ["m.bin", "m.pt", "m.npz", "a.zip"])
def test_a_zip_file_without_its_directory_is_a_problem(name: str) -> None:
    data = zipped()
    assert problem(name, data) is None
    assert kind(name, data[:-40]) == "structure"


def test_weights_without_a_zip_signature_are_accepted_and_npz_is_not() -> None:
    assert kind("m.bin", b"\x80\x02".ljust(300)) is None
    assert kind("m.npz", b"\x80\x02".ljust(300)) == "structure"


def test_a_parquet_file_starts_and_ends_with_its_magic() -> None:
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
def test_checking_any_bytes_raises_nothing(path: str, data: bytes) -> None:
    problem(path, data)
