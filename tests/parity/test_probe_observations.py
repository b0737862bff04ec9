"""The part of file 29 that is about probes: maps, coordinates, what was seen, and goals."""

import numpy as np
import pytest
import torch
from golden import FOLDER, Case, load
from gymnasium import spaces
from torch.testing import assert_close

from dreamer.envs.spaces import ObservationEncoder
from dreamer.models.probes import GoalsData, MapData

VECTORS = ("agent_pos", "agent_dir", "map_seen", "map_vis", "target_vec", "targets_vec")


def with_map() -> list[Case]:
    cases = [case for path in FOLDER.glob("29_*.npz") for case in load(path.stem).cases()]
    return [case for case in cases if "in/map" in case]


@pytest.mark.parametrize("case", with_map(), ids=str)
def test_observations_become_what_pydreamer_makes_of_them(case):
    """By the codec of Gymnasium environments, and by the probe."""
    classes = case.parameters["map"]
    edges = case.array("in/map").shape[2:]
    parts: dict[str, spaces.Space] = {"map": spaces.Box(0, classes - 1, edges, np.uint8)}
    for key in VECTORS:
        if f"in/{key}" in case:
            parts[key] = spaces.Box(-np.inf, np.inf, case.array(f"in/{key}").shape[2:])
    encode = ObservationEncoder(
        spaces.Dict(probe=spaces.Dict(parts)), grayscale=False, flat_keys="$^"
    )
    length, batch = case.array("in/map").shape[:2]
    steps = [
        encode({"probe": {key: case.array(f"in/{key}")[t, b] for key in parts}})
        for t, b in np.ndindex(length, batch)
    ]
    obs = {
        key: torch.tensor(np.array([step[key] for step in steps])).unflatten(0, (length, batch))
        for key in steps[0]
    }

    data = MapData.of(obs)
    assert torch.equal(data.map, case["out/map"].argmax(2))
    assert_close(data.coordinates, case["out/map_coord"])
    assert data.seen is not None
    assert torch.equal(data.seen, case["out/map_seen_mask"] > 0)
    if "out/goals_direction" in case:
        goals = GoalsData.of(obs)
        assert_close(goals.target, case["out/goal_direction"])
        assert_close(goals.targets.flatten(2), case["out/goals_direction"])
