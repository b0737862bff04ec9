"""s3:// against a real server."""

import pytest

from dreamer.data.formats import convert, summarize
from dreamer.data.settings import DataSettings

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("format_", ["dreamerv2", "pydreamer", "run", "minari"])
def test_every_format_goes_to_s3_and_back(s3, files, read, same, format_):
    where = str(files("pydreamer_vec"))
    to = f"s3://bucket/{format_}-v0"
    convert(where, DataSettings(to=to, format=format_, minari_format="hdf5"))
    assert summarize(to)[1].source.format == format_
    left, right = read(where)[0], read(to)[0]
    shared = left[0].keys() & right[0].keys()
    assert {"prev_action", "reward", "vecobs"} <= shared
    same(*([{key: one[key] for key in shared} for one in side] for side in (left, right)))
    with pytest.raises(ValueError, match="`to` must be empty or new"):
        convert(where, DataSettings(to=to, format=format_))
