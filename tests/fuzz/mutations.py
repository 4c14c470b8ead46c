"""Right samples made wrong: bits flipped, ends cut off, pieces taken out, doubled and put in.

Bytes out of nowhere seldom get past a parser's first look; a sample with a few faults does. ``HFFS_FUZZ_EXAMPLES`` says
how many each parser gets; with the default they are the same ones each time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# Two hundred a parser take about a second each; docs/security.md says when it was more.
EXAMPLES: Final = int(os.environ.get("HFFS_FUZZ_EXAMPLES", "200"))
_GIVEN: Final = "HFFS_FUZZ_EXAMPLES" in os.environ
# What parsers trip over: ends of numbers' ranges, what ends a text or a line, what opens and never closes.
_ODD: Final = [
    b"\0", b"\xff", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\0" * 7, b"\0" * 8, b"\r\n\r\n", b"\n", b"\\", b'"',
    b"/", b"../", b"%00", b"[", b"{", b"[" * 3000, b'{"a":' * 3000, b"]", b"}", b"NaN", b"-1", b"1e999", b"9" * 5000,
    b"9" * 4300, b"18446744073709551616",
    b"-9223372036854775809", b"null", b"true", b"\x1b[2J", "é\u202e\U0001f600".encode(),
    b"\xed\xa0\x80", b'"\\ud800"', b"=", b";", b",", b":", b"@", b"#", b" ", b"PK\5\6", b"PAR1", b"GGUF",
    b"\\u0000", b"\xc2\xb2", b"\xd9\xa3", b"Infinity", b"9" * 400, b"0x" + b"f" * 4000, b" " * 3000, b"a." * 3000,
]  # fmt: skip


def fuzzed(*strategies: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """``given`` with as many examples as were asked for, however long one takes: a hang is pytest's to end."""
    how = settings(
        max_examples=EXAMPLES,
        derandomize=not _GIVEN,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: how(given(*strategies)(test))


@st.composite
def broken(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    """One of the samples with up to six faults."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 16))
        match draw(st.sampled_from(["flip", "cut", "out", "in", "over", "twice", "number"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at:]
            case "out":
                del data[at : at + length]
            case "in":
                data[at:at] = draw(st.sampled_from(_ODD) | st.binary(max_size=16))
            case "over":
                odd = draw(st.sampled_from(_ODD))
                data[at : at + len(odd)] = odd
            case "twice":
                data[at:at] = data[at : at + 4 * length] * draw(st.integers(1, 4))
            case "number" if at < len(data):
                data[at] = draw(st.sampled_from(b"\x00\x01\x7f\x80\xfe\xff09"))
    return bytes(data)


# Values that JSON and TOML allow in place of a number, a text or a list, and that a parser may not expect.
MISFITS: Final = [
    "null", "true", "-1", "0", "1.5", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "nan", "inf", "9" * 19,
    "9" * 400, "9" * 4300, "9" * 5000, "0x" + "f" * 4000, "[]", "{}", '""', '[""]', '["a"]', '[[1]]',
    "[" * 3000 + "]" * 3000, '{"a":' * 3000,
    "{a=" * 900 + "1" + "}" * 900, '"\\u0000"', '"~\\u0000/a"', '"\\ud800"',
    '"..\\/.."', '"/"', '"%s"' % ("x" * 5000), '"\\u00b2"', '"\\u0663"',
    '"9%s"' % ("9" * 400), "1979-05-27", "2e-400",
]  # fmt: skip
_HERE: Final = "a place for what does not fit"


@st.composite
def misfits(draw: st.DrawFn, samples: Sequence[Any]) -> bytes:
    """One of the samples as JSON, in which one or two of its values are others than they should be."""
    value = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(1, 2))):
        value = _with(value, draw(st.sampled_from(list(_places(value)))), _HERE)
    text = json.dumps(value)
    while f'"{_HERE}"' in text:
        text = text.replace(f'"{_HERE}"', draw(st.sampled_from(MISFITS)), 1)
    return text.encode()


def _places(value: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from ((key, *place) for place in _places(each))


def _with(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    key, *rest = place
    if isinstance(value, dict):
        return {**value, key: _with(value[key], tuple(rest), new)}
    return [*value[:key], _with(value[key], tuple(rest), new), *value[key + 1 :]]


def broken_text(samples: Sequence[str]) -> st.SearchStrategy[str]:
    """The same for text; what is no UTF-8 any more becomes lone surrogates, as file names do."""
    return broken([sample.encode() for sample in samples]).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


def latin(samples: Sequence[str]) -> st.SearchStrategy[str]:
    """The same for header values, of which a client makes one character a byte."""
    return broken([sample.encode("latin-1") for sample in samples]).map(lambda raw: raw.decode("latin-1"))
