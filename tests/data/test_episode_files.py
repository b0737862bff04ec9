"""The authors' and PyDreamer's episode files: what is read, and what is skipped."""

import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest

from dreamer.data.formats import convert, summarize, verify
from dreamer.data.settings import DataSettings

ALL = ["dreamerv2", "pydreamer_image", "pydreamer_vec", "pydreamer_chunks"]


def rewrite(path, target=None, **arrays):
    """Write a file again with other arrays; None removes one."""
    with np.load(path) as file:
        kept = {key: arrays.get(key, file[key]) for key in {*file, *arrays} & {*file}}
    kept |= arrays
    np.savez_compressed(target or path, **{k: v for k, v in kept.items() if v is not None})


@pytest.mark.parametrize("folder", ALL)
def test_every_row_of_the_programs_files_is_read_as_it_is(files, read, folder):
    """All numbers are those of the files; only a piece's first row changes, as in PyDreamer."""
    where = files(folder)
    episodes, skipped = read(where)
    assert skipped == {}
    rows = {key: np.concatenate([e[key] for e in episodes]) for key in episodes[0]}
    raw = [dict(np.load(path)) for path in sorted(where.iterdir())]
    for arrays in raw:
        if "image_t" in arrays:
            arrays["image"] = arrays.pop("image_t").transpose(3, 0, 1, 2)
        if "image" in arrays:
            arrays["image"] = arrays["image"].transpose(0, 3, 1, 2)
        if "reset" in arrays:
            arrays["reset"][0], arrays["reward"][0] = True, 0
    names = {"prev_action": "action", "is_first": "reset", "is_terminal": "terminal"}
    for key, found in rows.items():
        name = key if key in raw[0] else names.get(key)
        if name in raw[0]:
            np.testing.assert_array_equal(found, np.concatenate([x[name] for x in raw]))
    last = np.append(rows["is_first"][1:], True)
    np.testing.assert_array_equal(rows["is_last"], last)


def test_numbers_and_shapes_come_from_the_files(files):
    summary, walk = summarize(str(files("dreamerv2")))
    assert (walk.source.format, summary.episodes, summary.steps) == ("dreamerv2", 2, 15)
    assert {name: column.shape for name, column in summary.columns.items()} == {
        "image": (1, 8, 8),
        "ram": (16,),
    }
    assert summary.action_space() == (4, True, ())
    assert (summary.terminal, summary.returns) == (1, [4, 5])

    summary, _ = summarize(str(files("pydreamer_vec")))
    assert summary.action_space() == (3, False, ()) and summary.action_range[0] < -0.97


def test_a_piece_begins_with_a_reset_without_reward_and_keeps_its_action(files, read):
    where = files("pydreamer_chunks")
    summary, _ = summarize(str(where))
    assert (summary.episodes, summary.pieces, summary.terminal) == (2, 1, 1)
    first, second = read(where)[0]
    with np.load(where / "ep000000_000000-1-r6-0013.npz") as file:
        assert not file["reset"].any() and file["reward"][0] == 1
        np.testing.assert_array_equal(second["prev_action"], file["action"])
    assert second["is_first"][0] and second["reward"][0] == 0
    assert first["is_last"][-1] and not first["is_terminal"].any()


def test_what_pydreamers_agents_do_not_see_is_for_probes(files):
    where = files("pydreamer_vec")
    (path,) = where.iterdir()
    rewrite(path, map=np.zeros((15, 5, 6), np.uint8), agent_dir=np.zeros(15), mission=["go"] * 15)
    summary, _ = summarize(str(where))
    shapes = {name: column.shape for name, column in summary.columns.items()}
    assert shapes == {"vecobs": (4,), "probe/map": (5, 6), "probe/agent_dir": ()}


def test_broken_and_foreign_files_are_named_and_skipped(files, read):
    where = files("dreamerv2")
    good = next(where.glob("*-6.npz"))
    (where / "notes.txt").write_text("mine")
    (where / "a.npz").write_bytes(good.read_bytes()[:700])  # cut short
    (where / "b.npz").write_bytes(b"")
    np.savez(where / "c.npz", weights=np.ones(3))
    rewrite(good, where / "d.npz", reward=np.full(7, np.nan))
    rewrite(good, where / "e.npz", ram=np.zeros((6, 16), np.uint8))
    rewrite(good, where / "f.npz", is_terminal=np.arange(7) == 3)
    with np.load(good) as file:
        np.savez(where / "g.npz", **{**file, "reward": np.array([None] * 7)})
    (where / "h.npz").write_bytes(
        (files("pydreamer_vec") / "ep000000_000001-0-r8-0013.npz").read_bytes()
    )
    damaged = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        start = archive.getinfo("image.npy").header_offset
    damaged[start + 150] ^= 255
    (where / "i.npz").write_bytes(damaged)
    episodes, skipped = read(where)
    assert len(episodes) == 2
    reasons = {
        "notes.txt": "no npz",
        "a.npz": "not a zip",
        "b.npz": "not a zip",
        "c.npz": "is_first, is_last, is_terminal, reward, action (dreamerv2) or reset",
        "d.npz": "`reward` must hold finite numbers",
        "e.npz": "`ram` must have 7 rows, got shape (6, 16)",
        "f.npz": "continue after a terminal one",
        "g.npz": "Python objects",
        "h.npz": "a file of pydreamer, the others are of dreamerv2",
        "i.npz": "",  # zlib words it
    }
    assert skipped.keys() == reasons.keys()
    assert {name: part in skipped[name] for name, part in reasons.items()} == dict.fromkeys(
        reasons, True
    )


def test_nothing_is_unpickled(tmp_path, read):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("written").write_text, ("x",))

    np.savez(tmp_path / "a.npz", action=np.array([Evil()]), reset=[1], terminal=[0], reward=[0.0])
    with pytest.raises(ValueError, match=r"must hold episodes, got 1 skipped.*Python objects"):
        read(tmp_path)
    assert not (tmp_path / "written").exists()


def test_an_empty_or_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="must hold episodes, got no files"):
        summarize(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        summarize(str(tmp_path / "nowhere"))


def test_shapes_that_differ_between_episodes_are_an_error(files):
    where = files("dreamerv2")
    rewrite(next(where.glob("*-9.npz")), image=np.zeros((10, 5, 8, 1), np.uint8))
    with pytest.raises(ValueError, match=r"same observations.*image 1x8x8.*image 1x5x8.*-9\.npz"):
        summarize(str(where))


def test_observations_are_read_one_file_at_a_time(files, monkeypatch):
    """Counting reads no observation, and verifying holds those of one file."""
    from dreamer.data import npz

    where, seen = files("pydreamer_image"), []
    read = npz._Arrays.read
    monkeypatch.setattr(npz._Arrays, "read", lambda self, key: seen.append(key) or read(self, key))
    summarize(str(where))
    assert "image_t" not in seen and seen
    seen.clear()
    verify(str(where))
    assert seen.count("image_t") == 2  # a file's once, for all of its episodes


def test_verify_finds_actions_outside_the_space_and_nan(files):
    where = files("pydreamer_vec")
    (path,) = where.iterdir()
    action = np.zeros((15, 3))
    action[4, 1] = 1.5
    rewrite(path, action=action)
    _, walk = verify(str(where))
    (reason,) = walk.skipped.values()
    assert "Actions must be in [-1, 1], got 0 to 1.5 in" in reason
    rewrite(path, action=action / 2, vecobs=np.full((15, 4), np.nan, np.float32))
    _, walk = verify(str(where))
    assert set(walk.skipped.values()) == {"`vecobs` must be finite"}


def test_files_are_read_in_the_order_of_their_episodes(tmp_path):
    from dreamer.data.address import find, list_files

    names = [
        *("0/ep000001_000001-2-r0-0009.npz", "0/ep000001_000001-10-r0-0009.npz"),
        *("1/ep000002-r7-0009.npz", "0/ep000003_000008-r-1-0009.npz"),
        "0/ep1000000_1000000-0-r0-0009.npz",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    place = find(str(tmp_path))
    assert [path.removeprefix(f"{place.path}/") for path in list_files(place)] == names


def test_memory_does_not_grow_with_the_number_of_files(files, tmp_path):
    """3.6 megabytes a file; three files at most are held at once."""
    where = files("pydreamer_vec")
    (path,) = where.iterdir()
    rewrite(path, vecobs=np.zeros((15, 60_000), np.float32))
    for number in range(7):
        shutil.copy(path, where / f"ep{number}-r8-0013.npz")
    settings = DataSettings(to=str(tmp_path / "to"), format="pydreamer", steps_per_file=1)
    for use in (verify, lambda address: convert(address, settings)):
        tracemalloc.start()
        use(str(where))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16e6
