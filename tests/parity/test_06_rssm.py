import torch
from golden import Case, golden, swap_time
from networks import (
    make_latent,
    our_samples,
    our_state,
    reference_state,
    reference_stats,
    rssm_config,
)
from torch import Tensor

from dreamer.models.latents import Latent
from dreamer.models.rssm import RSSM
from dreamer.types import RSSMState


def make_rssm(case: Case, embed: Tensor, action: Tensor) -> RSSM:
    latent = make_latent(case.parameters)
    rssm = RSSM(embed.shape[-1], action.shape[-1], latent, rssm_config(case.parameters))
    case.load(rssm)
    return rssm


def no_noise(latent: Latent, *leading: int) -> Tensor:
    return torch.zeros(*leading, latent.variables, latent.classes)


def prior_of(
    rssm: RSSM, posterior: RSSMState, noise: Tensor, member: Tensor | None = None
) -> RSSMState:
    stats = rssm.prior_stats(posterior.deter, member)
    return RSSMState(posterior.deter, rssm.latent.sample(stats, noise), stats)


@golden("06_*", where=lambda case: "length" in case.parameters, bf16=True)
def test_rssm(case: Case):
    embed, action = case["in/embed"].requires_grad_(), case["in/action"].requires_grad_()
    is_first = case["in/is_first"]
    rssm = make_rssm(case, embed, action)
    latent = rssm.latent
    start = our_state(latent, case, "in/state")
    batch, length = is_first.shape

    def check(folder: str, state: RSSMState, *, time: bool = True):
        parts = reference_state(latent, state) | {"feat": state.features}
        case.check_all(folder, {k: swap_time(x) if time else x for k, x in parts.items()})

    case.check("out/feat_of_state", start.features)

    zero = no_noise(latent, batch)
    check("out/img_step_mode", rssm.img_step(start, action[:, 0], zero), time=False)
    post = rssm.obs_step(start, action[:, 0], embed[:, 0], is_first[:, 0], zero)
    check("out/obs_step_mode/post", post, time=False)
    check("out/obs_step_mode/prior", prior_of(rssm, post, zero), time=False)

    sequences = swap_time(embed), swap_time(action), swap_time(is_first)
    zeros = no_noise(latent, length, batch)
    for folder, state in {"observe_mode": start, "observe_mode_nostate": None}.items():
        post = rssm.observe(*sequences, state, zeros)
        check(f"out/{folder}/post", post)
        check(f"out/{folder}/prior", prior_of(rssm, post, zeros))

    post = rssm.observe(*sequences, start, our_samples(latent, case["draw/observe/post"]))
    prior = prior_of(rssm, post, our_samples(latent, case["draw/observe/prior"]))
    check("out/observe/post", post)
    check("out/observe/prior", prior)
    case.check("out/observe/feat", swap_time(post.features))
    case.check("out/observe/post_entropy", swap_time(latent.entropy(post.stats)))
    log_prob = latent.log_prob(post.stats, post.stoch)
    case.check("out/observe/post_log_prob_of_sample", swap_time(log_prob))
    functional = (case["in/coef_feat"] * swap_time(post.features)).sum()
    for name, statistic in reference_stats(latent, prior.stats).items():
        functional = functional + (case[f"in/coef_prior/{name}"] * swap_time(statistic)).sum()
    case.check("out/observe/functional", functional)
    functional.backward()
    case.check("grad/observe/action", action.grad)
    case.check("grad/observe/embed", embed.grad)
    case.check_gradients(rssm, "grad/observe/w")

    for folder, noise in {
        "imagine_mode": zeros,
        "imagine": our_samples(latent, case["draw/imagine/state"]),
    }.items():
        actions = swap_time(action).detach()
        states = [start]
        for prev_action, step_noise in zip(actions, noise, strict=True):
            states.append(rssm.img_step(states[-1], prev_action, step_noise))
        check(f"out/{folder}", RSSMState(*map(torch.stack, zip(*states[1:], strict=True))))
        # The file's actions are given, so the policy passes on what should have been its noise.
        features, prev_actions = rssm.imagine(
            start, lambda _, given: given, length, action_noise=actions, state_noise=noise
        )
        torch.testing.assert_close(prev_actions[1:], actions)
        expected = torch.stack([state.features for state in states])
        torch.testing.assert_close(features, expected, rtol=0, atol=0)


@golden("06_*", where=lambda case: "member_used" in case.parameters, bf16=True)
def test_rssm_variant(case: Case):
    embed, action = case["in/embed"][:, 0], case["in/action"][:, 0]
    rssm = make_rssm(case, embed, action)
    latent = rssm.latent
    start = our_state(latent, case, "in/state")
    zero = no_noise(latent, len(embed))

    post = rssm.obs_step(start, action, embed, case["in/is_first"][:, 0], zero)
    prior = prior_of(rssm, post, zero, torch.tensor(case.parameters["member_used"]))

    case.check_all("out/post", reference_state(latent, post))
    case.check_all("out/prior", reference_state(latent, prior))
    members = [
        reference_stats(latent, rssm.prior_stats(post.deter, torch.tensor(k)))
        for k in range(len(rssm.priors))
    ]
    stacked = {k: torch.stack([m[k] for m in members]) for k in members[0]}
    case.check_all("out/all_members", stacked)
