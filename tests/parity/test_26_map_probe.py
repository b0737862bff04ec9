"""The map probe, and the categorical image decoder with a floor of its probabilities."""

from golden import Case, golden
from probes import MAP_FOLDER, check_gradients, image_decoder, map_probe

from dreamer.losses import importance_weighted
from dreamer.models.maps import seen_mask
from dreamer.models.probes import MapData


def is_decoder(case: Case) -> bool:
    """Whether it is about the decoder alone."""
    return "min_prob" in case.parameters


def is_probe(case: Case) -> bool:
    """Whether it is about the probe."""
    return not is_decoder(case)


@golden("26_*", is_probe)
def test_map_probe(case: Case, optimized):
    features = case["in/features"].requires_grad_()
    edges = case.array("in/map").shape[2:]
    probe = optimized(map_probe(case.under("w"), features.shape[-1], edges))
    data = MapData(case["in/map"], case["in/map_coord"], seen_mask(seen=case["in/map_seen_mask"]))

    output = probe(features, data)
    case.check("out/loss", output.loss)
    case.check_all("out/metrics", output.metrics)
    case.check_all("out/tensors", output.tensors)

    output.loss.backward()
    assert features.grad is not None
    case.check("grad/features_if_not_stopped", features.grad)
    check_gradients(case, probe.decoder, MAP_FOLDER)


@golden("26_*", is_decoder)
def test_categorical_image(case: Case, optimized):
    decoder = optimized(image_decoder(case))
    features = case["in/features"].requires_grad_()
    prediction = decoder(features)
    target = case["in/map"][:, :, None].expand(-1, -1, features.shape[2], -1, -1)
    loss = -prediction.log_prob(target)
    case.check("out/loss_tbi", loss)
    case.check("out/loss_tb", importance_weighted(loss))

    loss.mean().backward()
    assert features.grad is not None
    case.check("grad/features", features.grad)
    check_gradients(case, decoder, "model")
