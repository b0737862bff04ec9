"""Raw batches, and what the networks get: through the functions that training and probes use.

Only the order of axes is this test's own: images have channels last in the file, vectors of goals
are flattened, and a missing terminal means that no episode ends.
"""

import torch
from golden import Case, channels_first, golden
from pydreamer import NO_CONVOLUTIONS, features_model, pydreamer_batch
from torch import Tensor

from dreamer.envs.native_codec import one_hots
from dreamer.models.inputs import EncoderConfig, one_hot_images
from dreamer.models.maps import map_coordinates, seen_mask
from dreamer.models.model_heads import ModelHeadConfig
from dreamer.models.observations import VectorConfig
from dreamer.models.vision import preprocess

HEADS = {
    name: ModelHeadConfig(0, 1, "elu", "none", kind, gradients=True, scale=1.0)
    for name, kind in {"reward": "squared_error", "terminal": "binary"}.items()
}


def our_image(image: Tensor, kind: object) -> Tensor:
    """(T, B, h, w, C), or class indices (T, B, h, w) -> (T, B, C, h, w) as networks get it."""
    if not isinstance(kind, int):
        return preprocess(channels_first(image))
    shape = tuple(image.shape[2:])
    vector = VectorConfig([1], "elu", "none")
    config = EncoderConfig("$^", ".*", NO_CONVOLUTIONS, vector, classes={"image": kind})
    encoder = config.build_encoder({"image": shape}, torch.tanh)
    return encoder.inputs({"image": image}, None, None)["image"].unflatten(-1, (kind, *shape))


@golden("29_*")
def test_preprocess(case: Case):
    parameters = case.parameters
    raw = {key: torch.tensor(x) for key, x in case.under("in").items()}
    terminal = raw.get("terminal", torch.zeros_like(raw["reset"]))
    model = features_model(3, reward_transform=parameters["clip"] or "identity", heads=HEADS)
    targets = model.targets(pydreamer_batch(raw["reward"].float(), terminal))

    action = raw["action"]
    if parameters["int_action"]:
        action = torch.from_numpy(one_hots(action[..., None].numpy(), (parameters["A"],)))
    processed = {
        "image": our_image(raw["image"], parameters["image"]),
        "action": action.float(),
        "reward": targets["reward"],
        "terminal": targets["terminal"],
    }
    if "map" in parameters:
        processed |= {
            "map": one_hot_images(raw["map"], parameters["map"]),
            "map_coord": map_coordinates(
                raw["agent_pos"], raw["agent_dir"], size=raw["map"].shape[-1]
            ),
            "map_seen_mask": seen_mask(
                seen=raw.get("map_seen"), steps_since_visible=raw.get("map_vis")
            ),
        }
    if "goals" in parameters:
        processed["goal_direction"] = raw["target_vec"].float()
        processed["goals_direction"] = raw["targets_vec"].flatten(-2).float()

    # The rest has no use in networks, or none of its own, and stays as it is.
    untouched = {key: x for key, x in raw.items() if key not in ("map_seen", "map_vis")}
    assert case.expected.keys() == {f"out/{key}" for key in untouched | processed}
    case.check_all("out", untouched | processed)
    for key, value in processed.items():
        if value.dtype != torch.bool:
            assert value.numpy().dtype == case.expected[f"out/{key}"].dtype, key
