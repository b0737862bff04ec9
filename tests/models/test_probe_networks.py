"""What probes are given, and what they are scored by."""

from dataclasses import replace

import torch
from torch.testing import assert_close

from dreamer.models.heads import HeadConfig
from dreamer.models.probes import (
    ClassImageConfig,
    GoalsData,
    GoalsProbe,
    MapAndGoalsProbe,
    MapData,
    MapProbe,
)
from dreamer.types import HIDDEN

T, B, F, C, H, W, G = 5, 3, 7, 4, 2, 6, 2
IMAGE = ClassImageConfig(layers=1, units=9, activation="elu", norm="layer", min_prob=0.0)
HEAD = HeadConfig(1, 9, "elu", "layer", "squared_error")


def make_obs() -> dict[str, torch.Tensor]:
    cells = torch.nn.functional.one_hot(torch.randint(C, (T, B, H, W)), C).movedim(-1, 2)
    vectors = torch.randn(T, B, 2 * G)
    obs = {
        "map": cells.to(torch.uint8),
        "agent_pos": torch.randint(2, (T, B, 2)).float(),
        "agent_dir": torch.randn(T, B, 2),
        "map_seen": torch.randint(2, (T, B, H * W)).float(),
        "target_vec": vectors[..., :2],
        "targets_vec": vectors,
        "goals_visage": torch.randint(1200, (T, B, G)).float(),
    }
    return {HIDDEN + key: x for key, x in obs.items()}


def test_equal_samples_are_worth_one():
    obs = make_obs()
    probe = MapAndGoalsProbe(MapProbe(F, (C, H, W), IMAGE), GoalsProbe(F, G, HEAD))
    features = torch.randn(T, B, 1, F)
    one, three = probe(features, obs), probe(features.expand(-1, -1, 3, -1), obs)
    assert_close(one.loss, three.loss)
    assert one.metrics.keys() == three.metrics.keys()
    for key, value in one.metrics.items():
        assert_close(value, three.metrics[key], equal_nan=True)


def test_both_probes_together_have_the_sum_of_their_losses():
    obs, features = make_obs(), torch.randn(T, B, 2, F)
    map_probe, goals_probe = MapProbe(F, (C, H, W), IMAGE), GoalsProbe(F, G, HEAD)
    both = MapAndGoalsProbe(map_probe, goals_probe)(features, obs)
    alone = (
        MapAndGoalsProbe(map_probe, None)(features, obs),
        MapAndGoalsProbe(None, goals_probe)(features, obs),
    )
    assert_close(both.loss, alone[0].loss + alone[1].loss)
    assert both.metrics.keys() == alone[0].metrics.keys() | alone[1].metrics.keys()


class Certain(torch.nn.Module):
    """A decoder that always predicts class 0."""

    def forward(self, x):
        from dreamer.class_distributions import ClassImage

        logits = torch.zeros(*x.shape[:-1], C, H, W)
        logits[..., 0, :, :] = 9.0
        return ClassImage(logits)


def test_accuracy_counts_cells_and_that_of_the_seen_ones_only_those():
    classes = torch.zeros(T, B, H, W, dtype=torch.long)
    classes[..., 0] = 1  # one column in six is something else
    seen = torch.zeros(T, B, H, W, dtype=torch.bool)
    seen[1, 2, :, :2] = True  # half of what was seen
    seen[3, 0, :, 1] = True  # all of it right
    probe = MapProbe(F, (C, H, W), IMAGE)
    probe.decoder = Certain()  # pyright: ignore
    output = probe(torch.randn(T, B, 1, F), MapData(classes, torch.zeros(T, B, 4), seen))
    assert_close(output.metrics["acc_map"], torch.tensor(5 / 6))
    assert_close(output.metrics["acc_map_seen"], torch.tensor(0.75))
    nothing = MapData(classes, torch.zeros(T, B, 4))
    assert "acc_map_seen" not in probe(torch.randn(T, B, 1, F), nothing).metrics


def test_every_age_up_to_a_thousand_is_in_one_range():
    ages = torch.tensor([0, 1, 5, 6, 10, 11, 50, 51, 200, 201, 1000, 1001]).float()
    features, zeros = torch.randn(12, 1, 1, F), torch.zeros(12, 1, 2)
    probe = GoalsProbe(F, 1, HEAD)
    output = probe(features, GoalsData(zeros, zeros[:, :, None], ages[:, None, None]))
    distance = output.tensors["goals_direction_pred"].square().sum(-1).flatten()
    ends = {0: [0], 5: [1, 2], 10: [3, 4], 50: [5, 6], 200: [7, 8], 1000: [9, 10]}
    for end, rows in ends.items():
        assert_close(output.metrics[f"mse_goal_age{end}"], distance[rows].mean())


def test_coordinates_of_a_map_that_is_no_square_are_fractions_of_its_edges():
    obs = make_obs()
    obs[HIDDEN + "agent_pos"] = torch.tensor([W - 1.0, H - 1.0]).expand(T, B, 2)
    coordinates = MapData.of(obs).coordinates
    assert_close(coordinates[0, 0, :2], torch.tensor([1 - 2 / W, 1 - 2 / H]))


def test_a_probability_has_a_floor_only_if_it_is_told_so():
    features, plain = 100 * torch.randn(T, B, 1, F + 4), replace(IMAGE, norm="none")
    probs = MapProbe(F, (C, H, W), plain).decoder(features).mean
    floored = MapProbe(F, (C, H, W), replace(plain, min_prob=0.2)).decoder(features).mean
    assert probs.min() < 0.05
    assert floored.min() >= 0.05  # 0.2 / C
    assert_close(floored.sum(-3), torch.ones(T, B, 1, H, W))
