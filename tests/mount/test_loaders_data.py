"""A parquet dataset read from a cold mount, whole and by the column."""

from __future__ import annotations

import pytest

from tests.hub import Hub

from .conftest import Mount
from .models import Samples
from .mounted import load

pytestmark = pytest.mark.loaders

PARQUET = "data/train-00000-of-00001.parquet"


def test_datasets_streams_and_loads_what_the_parquet_file_holds(hub: Hub, mount: Mount, samples: Samples) -> None:
    hub.add_repo("acme/rows", type="dataset", files=samples.dataset)
    mounted = mount("datasets/acme/rows")
    load("datasets", mounted.path, samples.dataset)
    assert hub.journal.bytes_sent("cdn") <= (samples.dataset / PARQUET).stat().st_size, "bytes were fetched twice"


@pytest.mark.parametrize("way", ["mapped", "read"])
def test_pyarrow_reads_one_column_of_one_row_group(hub: Hub, mount: Mount, samples: Samples, way: str) -> None:
    hub.add_repo("acme/rows", type="dataset", files=samples.dataset)
    mounted = mount("datasets/acme/rows", "--prefetch", "none")
    load("parquet_column", mounted / PARQUET, samples.dataset / PARQUET, 3, "label", way)
    # The footer and one column chunk of 5 KB: less than half of 8 MB, or reading ahead does not look at what is read.
    assert hub.journal.bytes_sent("cdn") < 4 << 20
