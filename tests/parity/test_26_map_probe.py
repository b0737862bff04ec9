"""The map probe; `test_26_class_images.py` has the case of its decoder alone."""

from golden import Case, golden
from probes import MAP_FOLDER, check_gradients, map_probe

from dreamer.models.maps import seen_mask
from dreamer.models.probes import MapData


def is_probe(case: Case) -> bool:
    """Whether it is about the probe."""
    return "min_prob" not in case.parameters


@golden("26_*", is_probe, bf16=True)
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
