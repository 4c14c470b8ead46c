"""`hffs status` as drawn: the table, one mount in detail, and the screen of `--watch`."""

# ruff: noqa: E501 - screens are as wide as terminals
from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from hffs import names
from hffs.cli.display import status_text
from hffs.cli.display.mount_details import INDENT, mount_details
from hffs.cli.display.mounts_table import mounts_table, remarks
from hffs.cli.display.terminal_layout import ASCII, Line, Page, cells, drawn, folded, history, shortened
from hffs.cli.display.watch_screen import screen_lines
from hffs.control.messages import Status

from .statuses import GONE, LONG, NOW, busy, status, worker

FOUND = [LONG, busy(), GONE]
SPEEDS = {"/mnt/model": [0.0, 10e6, 20e6, 30e6]}


def overview(found: list[Status], page: Page, now: float | None) -> list[Line]:
    """What `hffs status` prints."""
    return [*mounts_table(found, page), *remarks(found, page, now)]


def printed(made: list[Line], page: Page) -> str:
    return "".join(f"{drawn(line, page)}\n" for line in made)


def folded_at(made: list[Line], page: Page, indent: int) -> str:
    return printed([piece for line in made for piece in folded(line, page, indent)], page)


def test_the_table_at_80_columns() -> None:
    assert (
        folded_at(overview(FOUND, Page(80), NOW), Page(80), 4)
        == """\
MOUNT              REPO                STATE    LOCAL               SPEED    ETA
/mnt/dat…七八九十  acme/a-v…v2.0@main  serving  ━━━━━━━━━━ 100 %        -      -
/mnt/model         acme/big…odel@main  serving  ━━────────  20 %  28.6M/s  2 min
/mnt/gone          acme/gone@main      dead     ──────────     ?        -      -
cache /var/cache/hffs: 1.0G of 50.0G (2 %), 20.0G free on disk
/mnt/model: a read waits: unet/diff…afetensors at 4.0M for 3 s, on
    https://hub.example
/mnt/model: 3 min ago  config.json: cannot reach hub.example
/mnt/gone: dead: reads fail until it is mounted again
/mnt/gone: its process 4711 is gone: hffs unmount /mnt/gone
"""
    )


def test_the_table_at_160_columns() -> None:
    assert (
        printed(mounts_table(FOUND, Page(160)), Page(160))
        == """\
MOUNT                                REPO                                  STATE    LOCAL                                                 SPEED    ETA  FETCHED
/mnt/datasets/模…二三四五六七八九十  acme/a-very-long-…n-and-on-v2.0@main  serving  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 100 %  5.0G of 5.0G        -      -     1.0G
/mnt/model                           acme/big-model@main                   serving  ━━━━━━────────────────────────  20 %  1.0G of 5.0G  28.6M/s  2 min     1.0G
/mnt/gone                            acme/gone@main                        dead     ──────────────────────────────     ?                      -      -        ?
"""
    )


def test_the_table_in_ascii() -> None:
    assert (
        printed(mounts_table(FOUND, Page(80, marks=ASCII)), Page(80, marks=ASCII))
        == """\
MOUNT              REPO                STATE    LOCAL               SPEED    ETA
/mnt/da...d\\u5341  acme/a-...2.0@main  serving  ########## 100 %        -      -
/mnt/model         acme/bi...del@main  serving  ##--------  20 %  28.6M/s  2 min
/mnt/gone          acme/gone@main      dead     ----------     ?        -      -
"""
    )


def test_one_mount_at_80_columns() -> None:
    assert (
        folded_at(mount_details(busy(), Page(80), NOW), Page(80), INDENT)
        == """\
/mnt/model  acme/big-model@main
  state     serving
  commit    0123456789abcdef0123456789abcdef01234567
  pid       4711
  since     6 min, kernel binding, from https://hub.example
  local     ━━──────────  20 %  1.0G of 5.0G, 12 files
  fetched   1.0G in 300 requests
  now       28.6M/s  ETA 2 min
  workers   4 of 10 (each further one brought less)
               2.9M/s  text_encoder/model-…of-00010.safetensors at 0B for a read
               5.7M/s  text_encoder/m…010.safetensors at 4.0M for the background
               8.6M/s  text_encoder/m…010.safetensors at 8.0M for the background
              11.4M/s  text_encoder/m…10.safetensors at 12.0M for the background
  hydrate   ━━──────────  20 %  1.0G of 5.0G, 3 of 12 files, running
  verified  0 of 12 files
  cache     ────────────   2 %  1.0G of 50.0G, 20.0G free on disk, in
            /var/cache/hffs
  log       /run/hffs/91b3d6f2f5a01c1e.log
  open      unet/diff…afetensors (2 handles, read through hffs: not all of it is
            local)
  waits     unet/diffusio…el.safetensors at 4.0M for 3 s, on https://hub.example
  problem   3 min ago  config.json: cannot reach hub.example
"""
    )


def test_the_screen_at_80_columns() -> None:
    assert (
        printed(screen_lines(FOUND, Page(80), SPEEDS, NOW), Page(80))
        == """\
3 mounts, 28.6M/s                              2023-11-14 22:13:20Z  Ctrl-C ends

MOUNT              REPO                STATE    LOCAL               SPEED    ETA
/mnt/dat…七八九十  acme/a-v…v2.0@main  serving  ━━━━━━━━━━ 100 %        -      -
/mnt/model         acme/big…odel@main  serving  ━━────────  20 %  28.6M/s  2 min
/mnt/gone          acme/gone@main      dead     ──────────     ?        -      -
cache /var/cache/hffs: 1.0G of 50.0G (2 %), 20.0G free on disk

/mnt/model  acme/big-model@main
  problem   3 min ago  config.json: cannot reach hub.example
  waits     unet/diffusio…el.safetensors at 4.0M for 3 s, on https://hub.example
  open      unet/diff…afetensors (2 handles, read through hffs: not all of it i…
  hydrate   ━━──────────  20 %  1.0G of 5.0G, 3 of 12 files, running
  now       28.6M/s   ▁▃▆█  ETA 2 min
  workers   4 of 10 (each further one brought less)
               2.9M/s  text_encoder/model-…of-00010.safetensors at 0B for a read
               5.7M/s  text_encoder/m…010.safetensors at 4.0M for the background
               8.6M/s  text_encoder/m…010.safetensors at 8.0M for the background
              11.4M/s  text_encoder/m…10.safetensors at 12.0M for the background

/mnt/gone  acme/gone@main
  state     dead: reads fail until it is mounted again
  problem   its process 4711 is gone: hffs unmount /mnt/gone
"""
    )


def test_the_screen_at_160_columns() -> None:
    assert (
        printed(screen_lines(FOUND, Page(160, 40), SPEEDS, NOW), Page(160, 40))
        == """\
3 mounts, 28.6M/s                                                                                                              2023-11-14 22:13:20Z  Ctrl-C ends

MOUNT                                REPO                                  STATE    LOCAL                                                 SPEED    ETA  FETCHED
/mnt/datasets/模…二三四五六七八九十  acme/a-very-long-…n-and-on-v2.0@main  serving  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 100 %  5.0G of 5.0G        -      -     1.0G
/mnt/model                           acme/big-model@main                   serving  ━━━━━━────────────────────────  20 %  1.0G of 5.0G  28.6M/s  2 min     1.0G
/mnt/gone                            acme/gone@main                        dead     ──────────────────────────────     ?                      -      -        ?
cache /var/cache/hffs: 1.0G of 50.0G (2 %), 20.0G free on disk

/mnt/model  acme/big-model@main
  problem   3 min ago  config.json: cannot reach hub.example
  waits     unet/diffusion_pytorch_model.safetensors at 4.0M for 3 s, on https://hub.example
  open      unet/diffusion_pytorch_model.safetensors (2 handles, read through hffs: not all of it is local)
  hydrate   ━━━━━━━━────────────────────────────────  20 %  1.0G of 5.0G, 3 of 12 files, running
  now       28.6M/s   ▁▃▆█  ETA 2 min
  workers   4 of 10 (each further one brought less)
               2.9M/s  text_encoder/model-00000-of-00010.safetensors at 0B for a read
               5.7M/s  text_encoder/model-00001-of-00010.safetensors at 4.0M for the background
               8.6M/s  text_encoder/model-00002-of-00010.safetensors at 8.0M for the background
              11.4M/s  text_encoder/model-00003-of-00010.safetensors at 12.0M for the background

/mnt/gone  acme/gone@main
  state     dead: reads fail until it is mounted again
  problem   its process 4711 is gone: hffs unmount /mnt/gone
"""
    )


def test_in_a_pipe_no_name_is_cut_and_no_bar_is_drawn() -> None:
    output = printed(overview(FOUND, Page(), None), Page())
    assert LONG["mountpoint"] in output
    assert LONG["repo"] in output
    assert "5.0G of 5.0G (100 %)" in output
    assert "2023-11-14 22:10:00Z  config.json: cannot reach hub.example" in output
    assert not set(output) & set("━─…\x1b")


def test_mounts_that_do_not_fit_are_counted_and_busy_ones_come_first() -> None:
    many = [*(status(f"/mnt/{number}") for number in range(30)), busy()]
    lines = printed(screen_lines(many, Page(80, 24), SPEEDS, NOW), Page(80, 24)).splitlines()
    assert len(lines) == 24
    assert lines[3].startswith("/mnt/model ")
    assert lines[15] == "and 19 more mounts"
    assert lines[18] == "/mnt/model  acme/big-model@main"
    assert lines[-1] == "and 4 more lines"


def test_lists_that_do_not_fit_are_counted() -> None:
    page = Page(80, 20)
    output = printed(screen_lines([busy(10)], page, SPEEDS, NOW), page)
    assert "  workers   10 of 10 (each further one brought less)\n" in output
    assert "            and 5 more\n" in output
    assert output.count("\n") <= 20
    assert "00009-of-00010" in printed(screen_lines([busy(10)], Page(160, 40), SPEEDS, NOW), Page(160, 40))


@given(st.integers(0, 40), st.integers(0, 20), st.integers(20, 200), st.integers(2, 60))
def test_a_screen_never_scrolls(quiet: int, workers: int, width: int, height: int) -> None:
    page = Page(width, height)
    made = screen_lines(
        [busy(workers), GONE, *(status(f"/mnt/{number}") for number in range(quiet))], page, SPEEDS, NOW
    )
    assert len(made) <= height
    assert all(cell_len(drawn(line, page)) <= width for line in made)


def test_workers_with_waiting_reads_come_first() -> None:
    purposes = ["bulk", "background", "ahead", "demand", "demand"]
    at_work = [{**worker(number), "for": purpose} for number, purpose in enumerate(purposes)]
    each = status(workers={"active": 5, "limit": 8, "bytes_per_s": 1.0, "why": "", "list": at_work[::-1]})
    assert [at["worker"] for at in status_text.by_urgency(each)] == [3, 4, 2, 1, 0]


@pytest.mark.parametrize(
    ("state", "output"),
    [
        ("offline", "no server is contacted"),
        ("restarting", "reads wait for its new daemon"),
        ("degraded", "takes no blocks"),
    ],
)
def test_a_state_is_explained(state: str, output: str) -> None:
    each = status(state=state)
    assert output in printed(overview([each], Page(80), NOW), Page(80))
    assert output in printed(mount_details(each, Page(80), NOW), Page(80))
    assert output in printed(screen_lines([each], Page(80), {}, NOW), Page(80))


def test_the_screen_of_an_idle_mount_is_its_table() -> None:
    page = Page(80)
    assert printed(screen_lines([], page, {}, NOW), page).startswith("no mounts  ")
    lines = printed(screen_lines([status()], page, {"/mnt/model": [0.0, 0.0]}, NOW), page).splitlines()
    assert lines[2:] == [
        "MOUNT       REPO            STATE    LOCAL",
        "/mnt/model  acme/tiny@main  serving  ━━━━────────────────  20 %  1.0G of 5.0G",
        "cache /var/cache/hffs: 1.0G of 50.0G (2 %), 20.0G free on disk",
    ]


def test_colours_change_no_character() -> None:
    plain, coloured = Page(80), Page(80, colour=True)
    painted = printed(screen_lines(FOUND, coloured, SPEEDS, NOW), coloured)
    assert "\x1b[32m━" in painted
    assert "\x1b[31m" in painted
    bare = re.sub(r"\x1b\[\d+m", "", painted)
    assert [line.rstrip() for line in bare.splitlines()] == printed(
        screen_lines(FOUND, plain, SPEEDS, NOW), plain
    ).splitlines()


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=80)


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=4), st.integers(60, 200))
def test_a_table_of_any_names_is_aligned_and_fits(names: list[tuple[str, str]], width: int) -> None:
    page = Page(width)
    found = [status(mountpoint, repo) for mountpoint, repo in names]
    wide = {sum(cells(page.shown(text)) for text, _ in line) for line in mounts_table([*found, GONE], page)}
    assert len(wide) == 1
    assert wide.pop() <= width


@given(NAMES, st.integers(20, 200), st.sampled_from([4, 12]))
def test_a_folded_line_fits_and_loses_only_blanks(text: str, width: int, indent: int) -> None:
    page = Page(width)
    pieces = folded([("word  ", "dim"), (text, "")], page, indent)
    assert "".join("".join(span for span, _ in piece) for piece in pieces).replace(" ", "") == page.shown(
        f"word{text}"
    ).replace(" ", "")
    for piece in pieces:
        assert cell_len(drawn(piece, page)) <= width


@given(NAMES, st.integers(1, 60))
def test_a_shortened_name_fits_and_keeps_both_ends(name: str, room: int) -> None:
    name = names.shown(name)  # as every name is before it is measured: a control character takes no cell
    short = shortened(name, room)
    assert cell_len(short) <= room
    assert short == name or (cell_len(name) > room and "…" in short)


@pytest.mark.parametrize(
    ("values", "drawn"), [([], ""), ([0, 0], ""), ([0, 5, 10], "▁▅█"), ([1e6], "█"), ([3, 3, 3], "███")]
)
def test_a_speed_history_is_scaled_to_its_highest_value(values: list[float], drawn: str) -> None:
    assert history(values, Page().marks) == drawn
    assert history(values, ASCII) == ""


def test_a_refusal_is_shown_with_its_remedy_and_quotas_with_their_time() -> None:
    hub = {
        "refused": "hub.example refuses the token",
        "remedy": "log in",
        "slowed": "few requests are left",
        "quotas": [{"kind": "resolvers", "left": 12, "limit": 5000, "resets_s": 90.0}],
    }
    each = status(state="degraded", hub=hub)
    for shown in (overview([each], Page(160), NOW), mount_details(each, Page(160), NOW)):
        text = printed(shown, Page(160))
        assert "degraded: the Hub refuses access, cached data can be read" in text
        assert "hub.example refuses the token: log in" in text
    assert "few requests are left" in text
    assert "12 of 5000 resolvers for 90 s" in text
