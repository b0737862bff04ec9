from golden import Case, golden
from networks import our_stats

from dreamer.losses import balanced_kl
from dreamer.models.latents import CategoricalLatent, GaussianLatent


@golden("02_*")
def test_kl_loss(case: Case):
    parameters = case.parameters
    leaves = {
        side: {k: case[f"in/{side}/{k}"].requires_grad_() for k in case.under(f"in/{side}")}
        for side in ("post", "prior")
    }
    if parameters["latent"] == "categorical":
        latent = CategoricalLatent(*leaves["post"]["logit"].shape[-2:])
    else:
        variables = leaves["post"]["mean"].shape[-1]
        latent = GaussianLatent(variables, std_activation="softplus", min_std=0.0)

    loss, value = balanced_kl(
        our_stats(latent, leaves["post"]),
        our_stats(latent, leaves["prior"]),
        latent.kl_divergence,
        balance=parameters["balance"],
        free_nats=parameters["free"],
        forward=parameters["forward"],
        free_avg=parameters["free_avg"],
    )
    loss.backward()

    case.check("out/loss", loss)
    case.check("out/value", value)
    for side, statistics in leaves.items():
        case.check_all(f"grad/{side}", {k: x.grad for k, x in statistics.items()})
