"""The decoder of class images, with a share of the uniform distribution in every cell."""

from golden import Case, golden
from probes import check_gradients, image_decoder
from pydreamer import (
    NO_CONVOLUTIONS,
    combine,
    features_model,
    head_gradients,
    head_options,
    load_head,
    repeat,
    vector_decoder,
)

from dreamer.models.decoders import DecoderConfig
from dreamer.models.model_heads import ModelHeadConfig
from dreamer.models.observations import VectorConfig

REWARD = ModelHeadConfig(0, 1, "elu", "none", "mse", gradients=True, scale=1.0)


def check_probe_decoder(case: Case, optimized) -> None:
    """Compare the decoder of map probes, a class of its own, with the same results."""
    features, image = case["in/features"].requires_grad_(), case["in/map"]
    decoder = optimized(image_decoder(case))
    loss = -decoder(features).log_prob(repeat(image, features.shape[2]))
    case.check("out/loss_tbi", loss)
    case.check("out/loss_tb", combine(loss))
    loss.mean().backward()
    case.check("grad/features", features.grad)
    check_gradients(case, decoder, "model")


@golden("26_*", where=lambda case: "min_prob" in case.parameters, bf16=True)
def test_class_images_with_a_least_probability(case: Case, optimized):
    features, image = case["in/features"].requires_grad_(), case["in/map"]
    weights = case.under("w")
    options = head_options(weights, "squared_error")
    cells = image.shape[2] * image.shape[3]
    classes = weights[f"model/{3 * options['layers']}/bias"].shape[0] // cells
    vector = VectorConfig([options["units"]] * options["layers"], "elu", options["norm"])
    decoder = DecoderConfig(
        *("$^", ".*", NO_CONVOLUTIONS, vector),
        min_prob=case.parameters["min_prob"],
        classes={"map": classes},
    )
    model = features_model(
        features.shape[-1],
        reward_transform="identity",
        heads={"reward": REWARD},
        decoder=decoder,
        obs_shapes={"map": tuple(image.shape[2:])},
        classes={"map": classes},
    )
    check_probe_decoder(case, optimized)
    head = vector_decoder(model.decoder, "map")
    load_head(head, weights)
    optimized(model)
    scores = model.decoder.log_prob(features, {"map": repeat(image, features.shape[2])})
    loss = -scores["map"]  # (T, B, I)
    case.check("out/loss_tbi", loss)
    case.check("out/loss_tb", combine(loss))
    loss.mean().backward()
    case.check("grad/features", features.grad)
    case.check_all(
        "grad/model", {k.removeprefix("model/"): x for k, x in head_gradients(head).items()}
    )
