import torch
from golden import Case, golden

from dreamer.models.latents import CategoricalLatent
from dreamer.models.observations import ObservationConfig, VectorConfig
from dreamer.models.rssm import GRUConfig, RSSMConfig
from dreamer.models.vision import ConvConfig, preprocess
from dreamer.models.world_model import (
    KLConfig,
    ModelHeadConfig,
    WorldModel,
    WorldModelConfig,
    transform_reward,
)

SMALL = ObservationConfig(
    ".*", ".*", ConvConfig(1, [], "elu", "none"), VectorConfig([1], "elu", "none")
)


def make_model(discount: float) -> WorldModel:
    """The smallest model; only its discount matters here."""
    config = WorldModelConfig(
        latent=CategoricalLatent(1, 2),
        rssm=RSSMConfig(1, 1, "elu", "none", GRUConfig(layer_norm=True), ensemble=1),
        encoder=SMALL,
        decoder=SMALL,
        heads={"reward": ModelHeadConfig(0, 1, "elu", "none", "mse", gradients=True, scale=1.0)},
        kl=KLConfig(0.8, 0.0, forward=False, free_avg=True),
        loss_scales={},
        image_gradients=True,
        reward_transform="identity",
        discount=discount,
        iwae_samples=1,
    )
    return WorldModel(config, {"vector": (1,)}, action_size=1)


@golden("13_*")
def test_preprocess(case: Case):
    inputs = {k: torch.tensor(x) for k, x in case.under("in").items()}
    # These the authors leave as they are; ours never come to a network.
    alone = {k: x for k, x in inputs.items() if k.startswith("log_") or x.dtype == torch.bool}
    processed = alone | {k: preprocess(x) for k, x in inputs.items() if k not in alone}
    processed["reward"] = transform_reward(inputs["reward"], case.parameters["clip_rewards"])
    model = make_model(case.parameters["discount"])
    processed["discount"] = model.real_discount(inputs["is_terminal"])

    case.check_all("out", processed)
    for key, value in processed.items():
        assert value.numpy().dtype == case.expected[f"out/{key}"].dtype, key
