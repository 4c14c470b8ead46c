"""Valid and invalid headers and footers give a plan, a further range, or nothing; they never raise and always end."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hffs.formats import ReadPlan, format_of
from hffs.formats.format import LONGEST
from hffs.ranges import ByteRange
from tests.support.profile import examples

MIB = 1024**2


def learn(path: str, data: bytes, size: int | None = None) -> tuple[ReadPlan | None, list[ByteRange]]:
    """Returns the plan of a file that starts (or, for a footer, ends) with ``data``, and the requested ranges."""
    size = len(data) if size is None else size
    found = format_of(path, size)
    assert found is not None
    seen = [found.first(size)]
    while True:
        at = seen[-1]
        assert 0 <= at.start < at.stop <= size
        assert at.length <= LONGEST
        assert len(seen) <= 12, "learning does not end"
        piece = data[at.start : at.stop].ljust(at.length, b"\0")
        learnt = found.learn(size, at, piece)
        if not isinstance(learnt, ByteRange):
            return learnt, seen
        assert learnt not in seen
        seen.append(learnt)


def safetensors(tensors: Mapping[str, tuple[int, int]], **more: object) -> bytes:
    members = {
        name: {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
        for name, (start, stop) in tensors.items()
    }
    text = json.dumps({**more, **members}).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf(keys: Mapping[str, bytes], offsets: list[int], version: int = 3) -> bytes:
    """Returns a header; the values of ``keys`` are type and value."""
    body = struct.pack("<4sIQQ", b"GGUF", version, len(offsets), len(keys))
    body += b"".join(text(name.encode()) + value for name, value in keys.items())
    for number, offset in enumerate(offsets):
        body += text(b"blk.%d.weight" % number) + struct.pack("<IQQIQ", 2, 512, 512, 0, offset)
    return body


def array_of_texts(words: list[bytes]) -> bytes:
    return struct.pack("<IIQ", 9, 8, len(words)) + b"".join(map(text, words))


def test_the_suffix_selects_the_format() -> None:
    known = {
        path: found.name
        for path in ("a/b.safetensors", "A.GGUF", "x.parquet", "x.npz", "x.zip", "x.pt", "pytorch_model.bin", "e.ckpt")
        if (found := format_of(path, MIB))
    }
    assert list(known.values()) == [
        "safetensors", "gguf", "parquet", "zip", "zip", "torch", "maybe-torch", "maybe-torch",
    ]  # fmt: skip
    assert [format_of(path, MIB) for path in ("config.json", "safetensors/x", "zip.d/README", "")] == [None] * 4
    assert format_of("a.safetensors", 7) is None


def test_a_safetensors_header_is_requested_in_full_and_gives_its_tensors() -> None:
    header = safetensors(
        {"layers.10.w": (0, 100), "layers.2.w": (100, 200), "empty": (200, 200), "lm_head": (200, 250)},
        __metadata__={"format": 'p{t}"', "x": "\\"},
    )
    plan, seen = learn("a.safetensors", header, len(header) + 250)
    assert seen == [ByteRange(0, 8), ByteRange(0, len(header))]
    data = len(header)
    assert plan == ReadPlan(data + 250, [data, data + 100, data + 200], [1, 0, 2])


def test_tensors_may_be_named_in_any_order_and_any_language() -> None:
    header = safetensors({"b.é": (4, 8), 'a."quoted"': (0, 4)})
    plan, _ = learn("a.safetensors", header, len(header) + 8)
    assert plan == ReadPlan(len(header) + 8, [len(header), len(header) + 4], [0, 1])


def member(offsets: object) -> bytes:
    return json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": offsets}}).encode()


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"a": 1}',
        b'{"a": {}}',
        b'{"a": {"data_offsets": [0, 4]}',
        b'{"a": {"data_offsets": [0, 4]}} more',
        b'{"a": {"data_offsets": [0, 4]},}',
        b'{"\xff": {"data_offsets": [0, 4]}}',
        b'{"\\q": {"data_offsets": [0, 4]}}',
        b'{"a": {"data_offsets": [0, 4]}, "b": {"data_offsets": [3, 5]}}',
        b'{"a": {"shape": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b'{"__metadata__": ' + b'{"a":' * 50_000,
        b'{"a": "' + b"\\" * 99_999,
        b'{"' + b"n" * 5000 + b'": {"data_offsets": [0, 4]}}',
        *map(member, ([0, 101], [-1, 4], [4, 0], [0], [0, 1, 2], ["0", "4"], None, [0, 10**30], [0.0, 4.0])),
    ],
)
def test_an_invalid_safetensors_header_gives_no_plan(wrong: bytes) -> None:
    header = struct.pack("<Q", len(wrong)) + wrong
    plan, _ = learn("a.safetensors", header.ljust(40), max(len(header) + 100, 40))
    assert plan is None


@pytest.mark.parametrize("length", [0, 1, 1000, LONGEST, 100_000_001, 2**63, 2**64 - 1])
def test_an_impossible_header_length_requests_nothing(length: int) -> None:
    assert learn("a.safetensors", struct.pack("<Q", length), 900) == (None, [ByteRange(0, 8)])


def test_too_many_tensors_give_no_plan() -> None:
    header = safetensors({f"t{n}": (n, n + 1) for n in range(65537)})
    assert learn("a.safetensors", header, len(header) + 65537)[0] is None


KEYS = {
    "general.architecture": struct.pack("<I", 8) + text(b"llama"),
    "a": struct.pack("<IIQ", 9, 4, 3) + bytes(12),
    "b": struct.pack("<IIQ", 9, 9, 2) + 2 * (struct.pack("<IQ", 1, 5) + bytes(5)),
    "c": struct.pack("<Id", 12, 0.5),
    "d": struct.pack("<IB", 7, 1),
    "words": array_of_texts([b"word" * (n % 5) for n in range(1000)]),
}


@pytest.mark.parametrize("version", [2, 3])
def test_a_gguf_header_gives_its_tensors_in_file_order(version: int) -> None:
    header = gguf(KEYS, [2048, 0, 1024], version)
    data = -(-len(header) // 32) * 32
    plan, seen = learn("a.gguf", header, data + 4096)
    assert seen == [ByteRange(0, data + 4096)]
    assert plan == ReadPlan(data + 4096, [data, data + 1024, data + 2048], [0, 1, 2])


def test_a_gguf_header_may_set_the_alignment() -> None:
    header = gguf({**KEYS, "general.alignment": struct.pack("<II", 4, 4096)}, [0])
    data = -(-len(header) // 4096) * 4096
    assert learn("a.gguf", header, data + 10)[0] == ReadPlan(data + 10, [data], [0])


def test_a_long_gguf_header_is_requested_in_doubling_steps() -> None:
    header = gguf({"words": array_of_texts([b"x" * 92] * 50_000)}, [0])
    plan, seen = learn("a.gguf", header, 1 << 30)
    assert [at.stop // MIB for at in seen] == [1, 4, 8] or [at.stop // MIB for at in seen] == [1, 2, 4, 8]
    assert plan is not None
    assert plan.end_of(-1) - len(header) < 32


@pytest.mark.parametrize(
    "wrong",
    [
        b"GGUF",
        b"GGML" + gguf({}, [0])[4:],
        gguf({}, [0], version=1),
        gguf({}, [0], version=4),
        struct.pack(">4sIQQ", b"GGUF", 3, 1, 0),
        gguf({}, []),
        gguf({}, [2**64 - 1]),
        gguf({"a": struct.pack("<I", 13)}, [0]),
        gguf({"a": struct.pack("<IIQ", 9, 13, 5)}, [0]),
        gguf({"a": struct.pack("<IIQ", 9, 9, 1) * 9}, [0]),
        gguf({"a": struct.pack("<IIQ", 9, 4, 2**62)}, [0]),
        gguf({"a": struct.pack("<IIQ", 9, 8, 2**62)}, [0]),
        gguf({"a": struct.pack("<IQ", 8, 2**62)}, [0]),
        gguf({"general.alignment": struct.pack("<II", 4, 0)}, [0]),
        struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0),
        struct.pack("<4sIQQ", b"GGUF", 3, 1, 2**60),
        struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + text(b"a") + struct.pack("<I", 9),
    ],
)
def test_an_invalid_gguf_header_gives_no_plan(wrong: bytes) -> None:
    plan, _ = learn("a.gguf", wrong, len(wrong) + 64 * MIB)
    assert plan is None


def test_false_counts_in_a_gguf_header_are_not_iterated() -> None:
    """Zero bytes parse as keys without names and as empty arrays, indefinitely."""
    keys = struct.pack("<4sIQQ", b"GGUF", 3, 1, 2_000_000)
    assert learn("a.gguf", keys, 1 << 30) == (None, [ByteRange(0, MIB)])
    nested = gguf({"a": struct.pack("<IIQ", 9, 9, 2_000_000)}, [0])
    assert learn("a.gguf", nested, 1 << 30) == (None, [ByteRange(0, MIB)])
    texts = gguf({"a": struct.pack("<IIQ", 9, 8, LONGEST // 8)}, [0])
    assert learn("a.gguf", texts, 1 << 30) == (None, [ByteRange(0, MIB)])
    texts = gguf({"a": struct.pack("<IIQ", 9, 8, LONGEST // 8 - 100)}, [0])
    plan, seen = learn("a.gguf", texts, 1 << 30)
    assert plan is None
    assert len(seen) == 2


def test_a_parquet_footer_longer_than_the_first_range_is_requested() -> None:
    short = b"PAR1".ljust(200_000) + struct.pack("<I", 1000) + b"PAR1"
    assert learn("a.parquet", short) == (None, [ByteRange(len(short) - 65536, len(short))])
    long = b"PAR1".ljust(200_000) + struct.pack("<I", 100_000) + b"PARE"
    assert learn("a.parquet", long)[1][1:] == [ByteRange(200_008 - 100_008, 200_008)]
    for length in (200_001, 2**32 - 1):
        assert len(learn("a.parquet", b"PAR1".ljust(200_000) + struct.pack("<I", length) + b"PAR1")[1]) == 1
    assert len(learn("a.parquet", bytes(200_000))[1]) == 1


def zip_end(directory: int, comment: bytes = b"") -> bytes:
    return struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, directory, 0, len(comment)) + comment


@pytest.mark.parametrize("comment", [b"", b"hello", b"PK\5\6" * 10])
def test_a_zip_directory_longer_than_the_first_range_is_requested(comment: bytes) -> None:
    whole = bytes(500_000) + zip_end(150_000, comment)
    tail = ByteRange(len(whole) - 65557, len(whole))
    assert learn("a.zip", whole) == (None, [tail, ByteRange(350_000, len(whole))])
    assert learn("a.zip", bytes(500_000) + zip_end(10, comment))[1] == [tail]
    assert learn("a.zip", bytes(500_000) + zip_end(500_001, comment))[1] == [tail]


def test_the_directory_of_a_zip64_is_found() -> None:
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 150_000, 0)
    where = struct.pack("<4sIQI", b"PK\6\7", 0, 500_000, 1)
    whole = bytes(500_000) + record + where + zip_end(0xFFFFFFFF)
    assert learn("a.pt", whole)[1][1:] == [ByteRange(350_000, len(whole))]
    lost = bytes(500_000) + record + struct.pack("<4sIQI", b"PK\6\7", 0, 7, 1) + zip_end(0xFFFFFFFF)
    assert len(learn("a.pt", lost)[1]) == 1


def test_the_tail_of_a_possible_zip_is_requested_only_after_its_signature() -> None:
    found = format_of("pytorch_model.bin", 500_022)
    assert found is not None
    assert not found.eager
    assert learn("pytorch_model.bin", b"PK\3\4".ljust(500_000) + zip_end(150_000))[1] == [
        ByteRange(0, 4), ByteRange(500_022 - 65557, 500_022), ByteRange(350_000, 500_022),
    ]  # fmt: skip
    assert learn("model.bin", bytes(500_000) + zip_end(150_000))[1] == [ByteRange(0, 4)]


PATHS = ["a.safetensors", "a.gguf", "a.parquet", "a.zip", "a.bin"]
HEADERS = [
    safetensors({"a": (0, 50), "b": (50, 100)}, __metadata__={"format": "pt"}),
    gguf({**KEYS, "general.alignment": struct.pack("<II", 4, 64)}, [0, 64]),
    b"PAR1" + bytes(100) + struct.pack("<I", 30) + b"PAR1",
    b"PK\3\4" + bytes(100) + zip_end(30),
]


@given(path=st.sampled_from(PATHS), data=st.binary(min_size=32, max_size=300), size=st.integers(32, 1 << 40))
@example(path="a.gguf", data=bytes(32), size=32)
@settings(max_examples=examples(1000), deadline=None)
def test_learning_from_any_bytes_raises_nothing(path: str, data: bytes, size: int) -> None:
    learn(path, data, max(size, len(data)))
    learn(path, data)


@given(
    path=st.sampled_from(PATHS),
    header=st.sampled_from(HEADERS),
    changes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4),
    cut=st.integers(32, 400),
    inserted=st.binary(max_size=8),
    at=st.integers(0, 300),
    more=st.sampled_from([0, 1, 100, 1 << 30]),
)
@settings(max_examples=examples(3000), deadline=None)
def test_learning_from_headers_with_wrong_bytes_raises_nothing(
    path: str,
    header: bytes,
    changes: list[tuple[int, int]],
    cut: int,
    inserted: bytes,
    at: int,
    more: int,
) -> None:
    changed = bytearray(header)
    for where, value in changes:
        changed[where % len(changed)] = value
    changed[at:at] = inserted
    data = bytes(changed[:cut]).ljust(32, b"\0")
    plan, _ = learn(path, data, len(data) + more)
    if plan is not None:
        assert all(plan.start_of(piece) < plan.end_of(piece) <= plan.size for piece in range(len(plan)))
