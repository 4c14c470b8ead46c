"""`hffs.mount`, with a real daemon on a real mount and a local Hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.hub import Hub, Synthetic

pytestmark = pytest.mark.fuse

SETUP = """
import hffs, time
os.environ["TMPDIR"] = tempfile.tempdir = work
options = {"runtime_dir": run, "cache_dir": work + "/cache"}

def wait_for(what):
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end, "condition never true"
        time.sleep(0.01)
"""


@pytest.fixture
def endpoint() -> Iterator[str]:
    with Hub() as hub:
        hub.add_repo("acme/tiny", files={"config.json": b"{}", "model.safetensors": Synthetic(3 << 20, seed=1)})
        yield hub.endpoint


def test_a_with_block_is_the_life_of_a_mount(in_namespace: Callable[..., None], endpoint: str) -> None:
    code = """
with hffs.mount("acme/tiny", **options) as mount:
    assert sorted(os.listdir(mount.path)) == ["config.json", "model.safetensors"]
    status = mount.status()
    assert (status["state"], status["repo"], status["commit"]) == ("serving", "acme/tiny", mount.commit)
    assert set(messages.Status.__required_keys__) <= set(status)
    [stored] = mount_records.every(run)
    assert os.stat(mount).st_dev != os.stat(work).st_dev
assert not os.path.exists(mount.path) and not mount_records.alive(stored)
assert [name for name in os.listdir(run) if not name.endswith(".log")] == []
mount.unmount()
try: mount.status()
except errors.MountNotFound: pass
else: sys.exit("still known")
try: os.waitpid(-1, os.WNOHANG)
except ChildProcessError: pass
else: sys.exit("the daemon is our child")
"""
    in_namespace(SETUP + code, HF_ENDPOINT=endpoint)


def test_a_file_open_at_the_end_of_the_block_stays_readable(in_namespace: Callable[..., None], endpoint: str) -> None:
    code = """
with hffs.mount("acme/tiny", prefetch="none", **options) as mount:
    weights = open(mount.path + "/model.safetensors", "rb")
    [stored] = mount_records.every(run)
assert not os.path.exists(mount.path)
assert len(weights.read()) == 3 << 20
weights.close()
wait_for(lambda: not mount_records.alive(stored))
"""
    in_namespace(SETUP + code, HF_ENDPOINT=endpoint)


def test_a_busy_mount_is_neither_unmounted_nor_mounted_over(in_namespace: Callable[..., None], endpoint: str) -> None:
    code = """
mount = hffs.mount("acme/tiny", where, **options)
with open(mount.path + "/config.json"):
    try: mount.unmount()
    except errors.MountFailed as error: assert "busy" in str(error) and "--lazy" in str(error), error
    else: sys.exit("unmounted")
    assert mount.status()["state"] == "serving"
try: hffs.mount("acme/tiny", where, **options)
except errors.MountFailed as error: assert "already the mount of acme/tiny" in str(error), error
else: sys.exit("mounted twice")
assert mounts.unmount("acme/tiny", runtime_dir=run) == where
assert os.listdir(where) == []
"""
    in_namespace(SETUP + code, HF_ENDPOINT=endpoint)


def test_a_mount_with_a_killed_daemon_is_dead_and_can_be_mounted_again(
    in_namespace: Callable[..., None], endpoint: str
) -> None:
    code = """
first = hffs.mount("acme/tiny", where, **options)
[stored] = mount_records.every(run)
kill(stored)
wait_for(lambda: not mount_records.alive(stored))
assert first.status()["state"] == "dead"
with hffs.mount("acme/tiny", where, **options) as second:
    assert second.status()["state"] == "serving"
    assert "config.json" in os.listdir(where)
"""
    in_namespace(SETUP + code, HF_ENDPOINT=endpoint)


def test_a_start_that_fails_leaves_nothing_behind(in_namespace: Callable[..., None], endpoint: str) -> None:
    code = """
for words, kind in ((("acme/none",), errors.NotFound), (("acme/tiny@nowhere",), errors.NotFound)):
    try: hffs.mount(*words, runtime_dir=run, cache_dir=work + "/cache")
    except errors.HffsError as error: assert error.exit_code == kind.exit_code, error
    else: sys.exit("mounted")
assert not [name for name in os.listdir(work) if name.startswith("hffs-")]
assert mount_records.every(run) == []
assert not [each for each in mount_table.table() if each.startswith(work + "/")]
"""
    in_namespace(SETUP + code, HF_ENDPOINT=endpoint)


def test_an_unknown_option_is_a_usage_error() -> None:
    import hffs
    from hffs.errors import UsageError

    with pytest.raises(UsageError, match="no such setting: colour"):
        hffs.mount("acme/tiny", colour="red")
    with pytest.raises(UsageError, match="is not a size"):
        hffs.mount("acme/tiny", fetch_size="lots")
