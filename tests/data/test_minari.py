"""Minari datasets, written by Minari and by this program."""

import json
import sys

import fsspec
import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import MinariDataset
from minari.dataset.minari_storage import MinariStorage

from dreamer.data.formats import convert, summarize, verify
from dreamer.data.settings import DataSettings

OBSERVATION = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (64, 64, 3), np.uint8),
        "arm": spaces.Tuple([spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(3)]),
    }
)


def episode(steps, action, *, terminal=True, seed=0):
    """Numbers that tell where they come from: arm[0] is the step, a reward is the step's, too."""
    rng = np.random.default_rng(seed)
    count = np.arange(steps + 1)
    ends = np.arange(steps) == steps - 1
    return EpisodeBuffer(
        observations={
            "camera": rng.integers(0, 256, (steps + 1, 64, 64, 3), np.uint8),
            "arm": (np.stack([count, -count], 1).astype(np.float32), count % 3),
        },
        actions=action,
        rewards=np.arange(1, steps + 1, dtype=float),
        terminations=ends & terminal,
        truncations=ends & (not terminal),
        infos={"lives": [3.0] * (steps + 1)},
    )


@pytest.fixture(params=["arrow", "parquet", "hdf5"])
def dataset(request, tmp_path):
    """Make a dataset with Minari; returns its folder."""

    def make(action_space, episodes, observation=OBSERVATION):
        folder = tmp_path / "dataset"
        (folder / "data").mkdir(parents=True)
        storage = MinariStorage.new(
            folder / "data", observation, action_space, None, request.param, jpeg_encoding=False
        )
        storage.update_episodes(episodes)
        return folder

    return make


def test_steps_get_the_actions_and_rewards_that_led_to_them(dataset, read):
    action = np.array([2, 4, 3])
    where = dataset(
        spaces.Discrete(3, start=2), [episode(3, action), episode(2, action[:2], terminal=False)]
    )
    first, second = read(where)[0]
    assert first.keys() - second.keys() == set()
    np.testing.assert_array_equal(first["prev_action"], [[0, 0, 0], *np.eye(3)[[0, 2, 1]]])
    np.testing.assert_array_equal(first["reward"], [0, 1, 2, 3])
    np.testing.assert_array_equal(first["arm/0"][:, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(first["arm/1"], np.eye(3)[[0, 1, 2, 0]])
    rng = np.random.default_rng(0)
    camera = rng.integers(0, 256, (4, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(first["camera"], camera.transpose(0, 3, 1, 2))
    assert (first["is_first"].tolist(), first["is_last"].tolist()) == (
        [True, False, False, False],
        [False, False, False, True],
    )
    assert first["is_terminal"].tolist() == [False, False, False, True]
    assert second["is_last"][-1] and not second["is_terminal"].any()


def test_continuous_actions_are_scaled_and_those_outside_are_skipped(dataset, read):
    box = spaces.Box(-2, 4, (2,), np.float32)
    inside = np.array([[-2, 4], [1, 2.5]], np.float32)
    where = dataset(box, [episode(2, inside), episode(2, inside + 3)])
    (found,), skipped = read(where)
    np.testing.assert_allclose(found["prev_action"][1:], [[-1, 1], [0, 0.5]])
    assert "Actions must be of Box" in skipped["episode 1"]


@pytest.mark.parametrize("format_", ["dreamerv2", "pydreamer", "run", "minari"])
def test_datasets_are_converted_to_every_format(dataset, read, same, tmp_path, format_):
    where = dataset(spaces.MultiDiscrete([3, 2]), [episode(4, np.array([[2, 1], [0, 0]] * 2))])
    to = str(tmp_path / format_)
    convert(str(where), DataSettings(to=to, format=format_))
    left, right = read(where)[0], read(to)[0]
    if format_ == "pydreamer":
        right = [{k.removeprefix("probe/"): x for k, x in one.items()} for one in right]
    same(left, right)
    if format_ in ("run", "minari"):
        assert summarize(to)[1].source.action_space == (5, True, (3, 2))


@pytest.mark.parametrize("folder", ["dreamerv2", "pydreamer_vec"])
def test_minari_reads_what_is_written(files, read, tmp_path, folder):
    where, to = files(folder), tmp_path / "mine-v0"
    convert(str(where), DataSettings(to=str(to), format="minari"))
    written = MinariDataset(to / "data")
    expected = read(where)[0]
    assert (written.id, written.total_episodes) == ("mine-v0", len(expected))
    for found, one in zip(written, expected, strict=True):
        np.testing.assert_array_equal(found.rewards, one["reward"][1:])
        np.testing.assert_array_equal(found.terminations, one["is_terminal"][1:])
        np.testing.assert_array_equal(found.truncations, (one["is_last"] & ~one["is_terminal"])[1:])
        if folder == "dreamerv2":
            np.testing.assert_array_equal(found.actions, one["prev_action"][1:].argmax(1))
            image = one["image"].transpose(0, 2, 3, 1)
            np.testing.assert_array_equal(found.observations["image"], image)
        else:
            np.testing.assert_allclose(found.actions, one["prev_action"][1:], rtol=1e-6)
            np.testing.assert_array_equal(found.observations["vecobs"], one["vecobs"])


def test_a_dataset_may_be_elsewhere(files, read, same):
    where = files("pydreamer_vec")
    to = "memory://bucket/mine-v0"
    try:
        convert(str(where), DataSettings(to=to, format="minari"))
        same(read(where)[0], read(to)[0])
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def damage(folder):
    """Damage the second episode; in hdf5, all are in one file."""
    if (folder / "main_data.hdf5").exists():
        with h5py.File(folder / "main_data.hdf5", "r+") as file:
            del file["episode_1/rewards"]
        return
    (path,) = (folder / "1").glob("part*")
    path.write_bytes(path.read_bytes()[:100])


def test_a_damaged_episode_is_skipped_and_a_damaged_dataset_is_an_error(dataset, read):
    where = dataset(spaces.Discrete(3), [episode(3, np.array([0, 1, 2]))] * 2)
    damage(where / "data")
    episodes, skipped = read(where)
    assert len(episodes) == 1 and list(skipped) == ["episode 1"]
    assert len(verify(str(where))[1].skipped) == 1
    metadata = where / "data" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"data_format": "tape"}))
    with pytest.raises(ValueError, match="must be a Minari dataset: .*tape"):
        read(where)


def test_the_environment_that_a_dataset_names_is_not_started(dataset, monkeypatch):
    where = dataset(spaces.Discrete(3), [episode(3, np.array([0, 1, 2]))])
    path = where / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["action_space"]
    metadata["env_spec"] = gymnasium.spec("CartPole-v1").to_json()
    path.write_text(json.dumps(metadata))
    monkeypatch.setattr(gymnasium, "make", lambda *_: pytest.fail("it is started"))
    with pytest.raises(ValueError, match="must have `action_space`"):
        summarize(str(where))


def test_a_missing_package_is_named(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    settings = DataSettings(to=str(tmp_path / "to"), format="minari", minari_format="hdf5")
    monkeypatch.delitem(sys.modules, "minari.dataset._storages.hdf5_storage", raising=False)
    with pytest.raises(ImportError, match=r"need `pip install -r requirements-data\.txt`: h5py"):
        convert(str(files("pydreamer_vec")), settings)
