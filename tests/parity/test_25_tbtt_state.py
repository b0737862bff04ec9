"""The recurrent model with PyDreamer's cells: a whole sequence, two chunks of it, and open loop."""

from typing import NamedTuple

import torch
from golden import Case, golden
from pydreamer_models import (
    CELLS,
    make_latent,
    our_samples,
    our_state,
    per_sample,
    their_features,
    their_state,
    their_stats,
)
from torch import Tensor

from dreamer.convert_pydreamer import load_pydreamer_weights, pydreamer_parameters
from dreamer.models.pydreamer import PyDreamerRSSM, PyDreamerRSSMConfig
from dreamer.types import RSSMState


class Run(NamedTuple):
    """What goes into one run of the file, and the steps of the file that it covers."""

    steps: slice
    start: RSSMState
    open_loop: bool


def make_rssm(case: Case) -> PyDreamerRSSM:
    parameters = case.parameters
    config = PyDreamerRSSMConfig(
        deter=parameters["deter"],
        hidden=parameters["hidden"],
        activation="elu",
        norm="layer" if parameters["layer_norm"] else "none",
        cell=CELLS[parameters["gru_type"]](parameters["gru_layers"]),
        ensemble=1,
    )
    latent = make_latent(parameters["stoch"], parameters["discrete"])
    rssm = config.build(parameters["E"], parameters["A"], latent)
    load_pydreamer_weights(case.under("w"), rssm)
    return rssm


def observe(rssm: PyDreamerRSSM, run: Run, case: Case, embed: Tensor, action: Tensor) -> RSSMState:
    """The posteriors (T, B * I, ...) of a run; open loop, the priors take their place."""
    samples = case.parameters["I"]
    noise = our_samples(rssm.latent, case["draw/post"])[run.steps]
    is_first = case["in/reset"][run.steps].repeat_interleave(samples, 1)
    actions, embeds = (x.repeat_interleave(samples, 1) for x in (action, embed))
    if not run.open_loop:
        return rssm.observe(embeds, actions, is_first, run.start, noise)
    state, states = run.start, []
    for t in range(len(is_first)):
        state = rssm.img_step(*rssm.reset(state, actions[t], is_first[t]), noise[t])
        states.append(state)
    return RSSMState(*(torch.stack(parts) for parts in zip(*states, strict=True)))


@golden("25_*", bf16=True)
def test_carried_state(case: Case, optimized):
    rssm = optimized(make_rssm(case))
    latent, samples = rssm.latent, case.parameters["I"]
    first = case.parameters["T1"]

    def check(name: str, steps: slice, start: RSSMState, open_loop: bool = False) -> RSSMState:
        """Compare one run; returns the state after it, without a graph."""
        rssm.zero_grad()
        embed, action = (case[f"in/{key}"][steps].requires_grad_() for key in ("embed", "action"))
        deter, stoch = (x.detach().clone().requires_grad_() for x in start[:2])
        run = Run(steps, RSSMState(deter, stoch, start.stats), open_loop)
        states = observe(rssm, run, case, embed, action)
        results = {
            "features": their_features(states),
            "post": their_stats(latent, states.stats),
            "prior": their_stats(latent, rssm.prior_stats(states.deter)),
        }
        results = {key: per_sample(x, samples) for key, x in results.items()}
        sum((case[f"in/coef_{key}"][steps] * x).sum() for key, x in results.items()).backward()

        case.check_all(f"out/{name}", results | nested("state", their_state(states.at(-1))))
        weights = pydreamer_parameters(rssm)
        gradients = {key: weight.to_reference(gradient=True) for key, weight in weights.items()}
        if open_loop:
            for key in case.parameters["open_loop_no_gradient"]:
                assert gradients.get(key) is None, key
        gradients |= {"embed": embed.grad, "action": action.grad}
        gradients |= {"state/deter": deter.grad, "state/stoch": stoch.grad.flatten(-2)}
        case.check_all(f"grad/{name}", gradients)
        return states.at(-1).detach()

    start = our_state(latent, case, "in/state")
    check("whole", slice(None), start)
    middle = check("chunk1", slice(first), start)
    check("chunk2", slice(first, None), middle)
    check("open_loop", slice(None), start, open_loop=True)


def nested(folder: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{folder}/{key}": x for key, x in values.items()}
