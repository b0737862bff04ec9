"""Every format is written, and read again as it was."""

import re

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dreamer.data.formats import convert, open_data, summarize, verify
from dreamer.data.settings import DataSettings
from dreamer.replay.buffer import Replay, ReplayConfig, columns_of
from dreamer.replay.stored import read_replay

FORMATS = ["dreamerv2", "pydreamer", "run"]
NAMES = ("image", "probe/goals", "probe/agent_dir")
SPEC = re.compile(r"ep(\d{6})_(\d{6})-(\d+)-r(-?\d+)-(\d{4,})\.npz")


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("folder", ["dreamerv2", "pydreamer_image", "pydreamer_vec"])
def test_a_copy_in_any_format_has_the_same_episodes(files, read, same, tmp_path, folder, format_):
    where = files(folder)
    summary, walk = convert(str(where), DataSettings(to=str(tmp_path / "to"), format=format_))
    assert walk.skipped == {} and summary.episodes
    assert open_data(str(tmp_path / "to")).format in (format_, "")
    left, right = read(where)[0], read(tmp_path / "to")[0]
    if format_ == "pydreamer" and folder == "dreamerv2":
        for episode in left:
            episode["probe/ram"] = episode.pop("ram")  # PyDreamer's agents see no such array
    same(left, right)


@pytest.mark.parametrize("format_", FORMATS)
def test_pieces_are_copied_with_their_forced_reset(files, read, same, tmp_path, format_):
    where = files("pydreamer_chunks")
    convert(str(where), DataSettings(to=str(tmp_path / "to"), format=format_))
    same(read(where)[0], read(tmp_path / "to")[0])


def test_the_authors_files_are_written_as_they_write_them(files, tmp_path):
    where = files("dreamerv2")
    convert(str(where), DataSettings(to=str(tmp_path / "to")))
    for old, new in zip(sorted(where.iterdir()), sorted((tmp_path / "to").iterdir()), strict=True):
        assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{32}-\d+\.npz", new.name)
        assert old.name.rsplit("-", 1)[1] == new.name.rsplit("-", 1)[1]
        with np.load(old) as left, np.load(new) as right:
            assert {*left} == {*right}
            for key in left:
                assert left[key].dtype == right[key].dtype
                np.testing.assert_array_equal(left[key], right[key])


def test_pydreamers_files_are_written_as_it_writes_them(files, tmp_path):
    """Three episodes a file, as in the original: 25 steps are enough for one."""
    where = files("pydreamer_image")
    convert(
        str(where), DataSettings(to=str(tmp_path / "to"), format="pydreamer", steps_per_file=25)
    )
    olds, news = sorted(where.iterdir()), sorted((tmp_path / "to").iterdir())
    assert [path.name for path in olds] == [path.name for path in news]
    for old, new in zip(olds, news, strict=True):
        with np.load(old) as left, np.load(new) as right:
            assert {*left} == {*right}
            for key in left:
                assert left[key].dtype == right[key].dtype
                np.testing.assert_array_equal(left[key], right[key])


def test_long_episodes_are_cut_into_pieces_of_equal_length(files, tmp_path):
    settings = DataSettings(to=str(tmp_path / "to"), format="pydreamer", steps_per_file=5)
    convert(str(files("pydreamer_image")), settings)
    found = [SPEC.fullmatch(path.name) for path in sorted((tmp_path / "to").iterdir())]
    named = [tuple(int(text) for text in match.groups()) for match in found if match]
    lengths = [6, 9, 12, 7, 12, 12]
    assert [sum(n for e, *_, n in named if e == k) for k in range(6)] == lengths
    assert [sum(e == k for e, *_ in named) for k in range(6)] == [n // 5 for n in lengths]
    resets = [np.load(path)["reset"].sum() for path in sorted((tmp_path / "to").iterdir())]
    assert resets == [int(piece == 0) for _, _, piece, *_ in named]


def test_a_runs_replay_is_read_and_written(make_run, read, tmp_path):
    episodes, run = make_run()
    found, skipped = read(run)
    assert skipped == {} and len(found) == episodes
    for format_ in ("dreamerv2", "run"):
        convert(str(run), DataSettings(to=str(tmp_path / format_), format=format_))
        copy = read(tmp_path / format_)[0]
        assert [len(x["reward"]) for x in copy] == [len(x["reward"]) for x in found]
        np.testing.assert_array_equal(copy[-1]["image"], found[-1]["image"])
    stored = read_replay(tmp_path / "run" / "replay")
    assert stored is not None and stored.columns == columns_of(
        {"image": (1, 6, 7), "vector": (3,)}, 2
    )


@pytest.fixture
def make_run(tmp_path):
    """A folder with a replay of two environments."""
    from dreamer.types import TimeStep

    def make():
        config = ReplayConfig(100, "episodes", across_episodes=False)
        replay = Replay(
            tmp_path / "source" / "replay",
            obs_shapes={"image": (1, 6, 7), "vector": (3,)},
            action_size=2,
            env_count=2,
            config=config,
            seed=0,
        )
        generator = np.random.default_rng(0)
        for n in range(20):
            image = generator.integers(0, 255, (2, 1, 6, 7), np.uint8)
            vector = generator.normal(size=(2, 3)).astype(np.float32)
            first, last = np.full(2, n % 5 == 0), np.full(2, n % 5 == 4)
            action = np.eye(2, dtype=np.float32) * (n % 5 > 0)
            reward = np.where(first, 0, n).astype(np.float32)
            step = TimeStep({"image": image, "vector": vector}, reward, first, last, last)
            replay.add(step, action)
        return 8, tmp_path / "source"

    return make


def test_addresses_may_be_elsewhere(files, read, same):
    """The same in memory as on disk, for every format, written and read."""
    where = files("pydreamer_vec")
    expected = read(where)[0]
    for format_ in FORMATS:
        to = f"memory://bucket/{format_}"
        try:
            convert(str(where), DataSettings(to=to, format=format_))
            same(expected, read(to)[0])
        finally:
            fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_episodes_for_evaluation_are_not_mixed_with_the_others(files, read, tmp_path):
    files("pydreamer_image").rename(tmp_path / "episodes_eval")
    files("pydreamer_chunks").rename(tmp_path / "episodes")
    assert len(read(tmp_path)[0]) == 2
    assert len(read(tmp_path / "episodes_eval")[0]) == 6


def test_impossible_conversions_are_told(files, tmp_path):
    where = str(files("pydreamer_vec"))
    with pytest.raises(ValueError, match="`to` must be empty or new"):
        convert(where, DataSettings(to=where))
    with pytest.raises(ValueError, match="of a kind that fsspec knows, got foo://x"):
        convert("foo://x", DataSettings(to=str(tmp_path / "to")))
    path = next((tmp_path / "pydreamer_vec").iterdir())
    with np.load(path) as file:
        arrays = {**file}
    np.savez(path, **arrays, image=np.zeros((15, 5, 6, 3)))
    with pytest.raises(ValueError, match="`image` must be an image or a table of whole numbers"):
        convert(where, DataSettings(to=str(tmp_path / "a"), format="run"))
    np.savez(path, **{**arrays, "action": 3 * arrays["action"]})
    for format_ in ("run", "minari"):
        with pytest.raises(ValueError, match=rf"in \[-1, 1\] for format={format_}, got -2\.9"):
            convert(where, DataSettings(to=str(tmp_path / "b"), format=format_))
    assert not (tmp_path / "b").exists()
    image = np.full((15, 5, 6), 300)
    np.savez(path, **arrays, image=image)
    with pytest.raises(ValueError, match="`image` must be from 0 to 255"):
        convert(where, DataSettings(to="memory://bucket/c", format="run"))
    assert not fsspec.filesystem("memory").exists("/bucket")  # nothing is uploaded


def test_a_replay_takes_class_images_tables_and_single_numbers(files, read, tmp_path):
    where = files("pydreamer_vec")
    (path,) = where.iterdir()
    generator = np.random.default_rng(0)
    image, goals = generator.integers(0, 9, (15, 5, 6)), generator.normal(size=(15, 3, 2))
    with np.load(path) as file:
        arrays = {**file, "image": image, "goals": goals, "agent_dir": np.arange(15)}
    np.savez(path, **arrays)
    to = str(tmp_path / "to")
    convert(str(where), DataSettings(to=to, format="run"))
    rows = [np.concatenate([x[key] for x in read(to)[0]]) for key in NAMES]
    assert [x.dtype.name for x in rows] == ["uint8", "float32", "float32"]
    np.testing.assert_array_equal(rows[0], image)
    np.testing.assert_allclose(rows[1], goals.reshape(15, 6), rtol=1e-6)
    np.testing.assert_array_equal(rows[2], np.arange(15)[:, None])
    np.savez(path, **{**arrays, "image": image * 50})
    with pytest.raises(ValueError, match="`image` must be from 0 to 255, got 0 to 400 in ep0"):
        convert(str(where), DataSettings(to=str(tmp_path / "a"), format="run"))


class Failing(MemoryFileSystem):
    """A store that is reached, but whose objects cannot be read without credentials."""

    protocol = "failing"
    store, pseudo_dirs = {}, [""]

    def cat_file(self, path, start=None, end=None, **_):
        raise RuntimeError("no\ncredentials")


def test_a_store_that_cannot_be_read_is_an_error_and_not_a_broken_file(files, monkeypatch):
    fsspec.register_implementation("failing", Failing, clobber=True)
    convert(str(files("pydreamer_vec")), DataSettings(to="failing://bucket/a"))
    for look in (summarize, verify):
        with pytest.raises(OSError, match="^failing://bucket/a cannot be reached: no credentials$"):
            look("failing://bucket/a")
    monkeypatch.setattr(Failing, "exists", Failing.cat_file)
    with pytest.raises(OSError, match="^failing://bucket/b cannot be reached: no credentials$"):
        summarize("failing://bucket/b")
