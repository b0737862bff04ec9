import torch
from golden import Case, golden

from dreamer.bounded_normals import TanhNormal, TruncatedNormal
from dreamer.distributions import Normal, OneHot
from dreamer.models.actor import ActionLayer
from dreamer.models.heads import DistributionLayer


@golden("04_*", where=lambda case: "dist" not in case.parameters)
def test_truncated_normal(case: Case):
    assert (case.parameters["low"], case.parameters["high"]) == (-1, 1)
    loc, scale = case["in/loc"].requires_grad_(), case["in/scale"].requires_grad_()
    leaves = {"loc": loc, "scale": scale}

    def check_gradients(folder: str, scalar: torch.Tensor):
        gradients = torch.autograd.grad(scalar, list(leaves.values()))
        case.check_all(f"grad/{folder}", dict(zip(leaves, gradients, strict=True)))

    dist = TruncatedNormal(loc, scale)
    log_prob = dist.log_prob(case["in/value"])
    case.check("out/log_prob", log_prob)
    case.check("out/entropy", dist.entropy)
    case.check("out/mean", dist.mean)
    case.check("out/mode", dist.mode)
    check_gradients("log_prob_sum", log_prob.sum())
    check_gradients("entropy_sum", dist.entropy.sum())

    for folder, dist in {
        "sample_functional_exact": TruncatedNormal(loc, scale),  # the default
        "sample_functional_reference": TruncatedNormal(loc, scale, gradient="reference"),
    }.items():
        sample = dist.sample(case["draw/uniform"])
        case.check("out/sample", sample)
        check_gradients(folder, (case["in/coef"] * sample).sum())


@golden("04_*", where=lambda case: "dist" in case.parameters, bf16=True)
def test_distribution_layer(case: Case):
    parameters, features = case.parameters, case["in/features"]
    bounded = {k: v for k, v in parameters.items() if k in ("min_std", "init_std")}
    size, shape, name = features.shape[-1], parameters["shape"], parameters["dist"]
    if bounded:
        layer = ActionLayer(size, shape, name, **bounded)
    else:
        layer = DistributionLayer(size, shape, name)
    case.load(layer)
    dist = layer(features)

    match dist:
        case OneHot():
            own = {"probs": dist.probs}
        case Normal():
            own = {"stddev": dist.std.expand_as(dist.mean)}
        case TruncatedNormal():
            own = {"loc": dist.loc, "scale": dist.scale}
        case TanhNormal():
            dist.noise = case["draw/normal"]
            own = {"loc": dist.normal.mean, "scale": dist.normal.std}
        case _:
            own = {}
    if "in/value_hard" in case:
        own["log_prob_hard"] = dist.log_prob(case["in/value_hard"])
    log_prob = dist.log_prob(case["in/value"])
    own |= {"log_prob": log_prob, "entropy": dist.entropy, "mean": dist.mean, "mode": dist.mode}
    case.check_all("out", own)


def test_tanh_normal_judges_saturated_actions_as_the_authors_do():
    dist = TanhNormal(torch.zeros(4), torch.ones(4))
    # From the authors' TanhBijector; the golden files' actions stay away from the bounds.
    expected = torch.tensor([-0.8725291, -8.719882, -22.511944, -20.262318])
    value = torch.tensor([0.3, 0.99999, 1.0, 0.9999999])
    torch.testing.assert_close(dist.log_prob(value), expected, rtol=1e-4, atol=1e-5)
