"""Headers and footers of a repo's files, which steer read-ahead."""

from __future__ import annotations

import io
import json
import struct
import zipfile

from hypothesis import strategies as st

from hffs.formats import ReadPlan, format_of
from hffs.formats.format import LONGEST
from hffs.ranges import ByteRange

from .mutations import broken, fuzzed, misfits


def _safetensors() -> bytes:
    places = {f"layers.{n}.weight": [8 * n, 8 * n + 8] for n in range(4)}
    tensors = {name: {"dtype": "F32", "shape": [2], "data_offsets": place} for name, place in places.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(32)


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def _gguf() -> bytes:
    words = struct.pack("<IIQ", 9, 8, 2) + _text(b"a") + _text(b"bc")
    numbers = struct.pack("<IIQ", 9, 4, 2) + bytes(8)
    keys = {b"general.alignment": struct.pack("<II", 4, 64), b"tokens": words, b"scores": numbers}
    body = struct.pack("<4sIQQ", b"GGUF", 3, 3, len(keys)) + b"".join(_text(name) + keys[name] for name in keys)
    for number in range(3):
        body += _text(b"blk.%d.weight" % number) + struct.pack("<IQQIQ", 2, 4, 4, 0, 64 * number)
    return body.ljust(512, b"\0") + bytes(512)


def _zip(comment: bytes = b"") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in ("data.pkl", "data/0", "version"):
            archive.writestr(name, b"x" * 50)
        archive.comment = comment
    return made.getvalue()


def _zip64() -> bytes:
    tail = b"PK\6\6" + struct.pack("<Q12xQ8xQ", 44, 1, 0)[:52].ljust(52, b"\0")
    return b"PK\3\4" + bytes(80) + tail + b"PK\6\7" + struct.pack("<IQI", 0, 84, 1) + b"PK\5\6" + b"\xff" * 16 + b"\0\0"


SAMPLES = {
    "model.safetensors": [_safetensors()],
    "model.gguf": [_gguf()],
    "rows.parquet": [b"PAR1" + bytes(100) + b"footer" + struct.pack("<I", 6) + b"PAR1", b"PAR1" + bytes(64) + b"PARE"],
    "a.zip": [_zip(), _zip(b"a comment"), _zip64()],
    "pytorch_model.bin": [_zip(), _zip64()],
}


def test_the_samples_are_valid() -> None:
    for name in ("model.safetensors", "model.gguf"):
        (data,) = SAMPLES[name]
        assert isinstance(learnt(name, data, 0, front=True), ReadPlan)


def learnt(name: str, data: bytes, more: int, *, front: bool) -> ReadPlan | None:
    """Returns the plan of a file of ``data`` followed by ``more`` zero bytes, or preceded by them."""
    size = len(data) + more
    found = format_of(name, size)
    if found is None:
        return None
    wanted, at = found.first(size), 0 if front else more
    for _ in range(40):
        assert 0 <= wanted.start < wanted.stop <= size
        assert wanted.length <= LONGEST
        seen = bytearray(wanted.length)
        start, stop = max(wanted.start, at), min(wanted.stop, at + len(data))
        if start < stop:
            seen[start - wanted.start : stop - wanted.start] = data[start - at : stop - at]
        found_next = found.learn(size, wanted, bytes(seen))
        if not isinstance(found_next, ByteRange):
            return found_next
        assert found_next != wanted
        wanted = found_next
    raise AssertionError("learning does not end")


def fuzz(name: str) -> None:
    @fuzzed(broken(SAMPLES[name]), st.sampled_from([0, 0, 1, 1 << 20, 1 << 40]), st.booleans())
    def run(data: bytes, more: int, front: bool) -> None:
        plan = learnt(name, data, more, front=front)
        ends = [] if plan is None else [(plan.start_of(piece), plan.end_of(piece)) for piece in range(len(plan))]
        assert all(0 <= begin < end <= len(data) + more for begin, end in ends)

    run()


def test_safetensors() -> None:
    fuzz("model.safetensors")


TENSORS = {"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
HEADERS = misfits([TENSORS]).map(lambda text: struct.pack("<Q", len(text)) + text + bytes(8))


@fuzzed(HEADERS)
def test_headers_of_safetensors(data: bytes) -> None:
    learnt("model.safetensors", data, 0, front=True)


def test_gguf() -> None:
    fuzz("model.gguf")


def test_parquet() -> None:
    fuzz("rows.parquet")


def test_zip() -> None:
    fuzz("a.zip")


def test_possible_zip() -> None:
    fuzz("pytorch_model.bin")
