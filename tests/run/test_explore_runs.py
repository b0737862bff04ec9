"""Runs with exploration: who collects when, what is logged and saved, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from extensions import Curiosity, Mixed
from test_train import (
    QUIET,
    assert_same_agent,
    checkpoint,
    interrupt,
    lines,
)
from torch.testing import assert_close

from dreamer.callbacks.interrupt import Interrupted
from dreamer.envs.dummy import MemoryEnvs
from dreamer.exploration import explorer_of
from dreamer.policy import DreamerPolicy, ExplorerThenActor, RandomPolicy, SnapshotPolicy
from dreamer.run.build import make_agent, make_envs, make_explorer
from dreamer.run.config import checked
from dreamer.run.header import describe_exploration
from dreamer.run.load import load
from dreamer.run.train import _explore_policy_steps, train

PLAN2EXPLORE = ("explore=plan2explore", "explore.ensemble.members=3")
MIXED = ("collect_policy._target_=extensions.Mixed", "+collect_policy.random_share=0.5")
EXPLORER, ACTOR = "explorer", "actor"


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def collections(monkeypatch) -> list[tuple[int, str]]:
    """Policy steps at the begin of each collection, and who is to make it."""
    made = []
    choose = ExplorerThenActor.choose

    def spy(self, policy_steps):
        choose(self, policy_steps)
        made.append((policy_steps, ACTOR if self._policy is self._actor else EXPLORER))

    monkeypatch.setattr(ExplorerThenActor, "choose", spy)
    return made


# -------------------------------------------------------------------------------- who collects


@pytest.mark.slow
@pytest.mark.parametrize("collect", ["local", "overlap"])
@pytest.mark.parametrize(
    ("until", "action_repeat", "explored"),
    [
        ("null", 1, [48, 49, 57, 65, 73]),
        ("0", 1, []),
        ("57", 1, [48, 49]),
        ("58", 1, [48, 49, 57]),
        ("114", 2, [48, 49]),
        ("115", 2, [48, 49, 57]),
    ],
)
def test_until_frames_decides_who_collects(
    compose_tiny, collections, monkeypatch, collect, until, action_repeat, explored
):
    monkeypatch.setattr(MemoryEnvs, "action_repeat", action_repeat)
    words = (
        f"explore.until_frames={until}",
        f"collect={collect}",
        f"total_frames={81 * action_repeat}",
    )
    train(compose_tiny(*PLAN2EXPLORE, *words, *QUIET))
    expected = [(n, EXPLORER if n in explored else ACTOR) for n in (48, 49, 57, 65, 73)]
    assert collections == expected


@pytest.mark.parametrize(
    ("until", "action_repeat", "expected"),
    [("null", 4, None), ("0", 4, 0), ("1", 4, 1), ("4", 4, 1), ("5", 4, 2), ("7", 1, 7)],
)
def test_the_explorer_ends_with_the_policy_step_that_reaches_the_frame(
    compose_tiny, until, action_repeat, expected
):
    cfg = compose_tiny(*PLAN2EXPLORE, f"explore.until_frames={until}")
    assert _explore_policy_steps(cfg, action_repeat) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("until", "who"), [("60", ACTOR), ("70", EXPLORER)])
def test_a_resumed_run_knows_who_collects(compose_tiny, collections, until, who):
    words = (*PLAN2EXPLORE, f"explore.until_frames={until}", *QUIET)
    train(compose_tiny(*words, "total_frames=64"))
    collections.clear()
    train(compose_tiny(*words))
    assert collections[0][0] == 64
    assert collections == [(64, who), (65, who), (73, ACTOR)]


@pytest.mark.slow
def test_the_prefill_is_random_with_an_explorer_as_without(compose_tiny, monkeypatch):
    acted, act = [], DreamerPolicy.__call__
    monkeypatch.setattr(DreamerPolicy, "__call__", lambda *args: acted.append(1) or act(*args))
    train(compose_tiny(*PLAN2EXPLORE, *QUIET))
    assert 81 - 48 <= len(acted) <= 81 - 48 + 6  # and a call for each reset


@pytest.mark.slow
def test_random_exploration_collects_uniformly_and_learns_nothing_more(compose_tiny, monkeypatch):
    acted, drawn = [], []
    act, draw = DreamerPolicy.__call__, RandomPolicy.__call__
    monkeypatch.setattr(DreamerPolicy, "__call__", lambda *args: acted.append(1) or act(*args))
    monkeypatch.setattr(RandomPolicy, "__call__", lambda *args: drawn.append(1) or draw(*args))
    words = "explore=random", "callbacks.evaluate=null"
    summary = train(compose_tiny(*words))
    assert not acted
    assert len(drawn) >= 81
    weights = checkpoint(summary.run_dir)["state_dict"]
    assert not any(key.startswith("components") for key in weights)
    drawn.clear()
    train(compose_tiny(*words, "explore.until_frames=57", "run_dir=until"))
    assert 24 <= len(acted) <= 28  # the actor made the last 24 policy steps
    assert 57 <= len(drawn) <= 81 - 24 + 8


@pytest.mark.slow
def test_explorers_act_as_their_kind_says(compose_tiny):
    for words, kind in (
        (PLAN2EXPLORE, DreamerPolicy),
        ((*PLAN2EXPLORE, "collect=overlap"), SnapshotPolicy),
        (("explore=random",), RandomPolicy),
        ((), type(None)),
    ):
        cfg = compose_tiny(*words)
        agent = make_agent(cfg, make_envs(cfg, seed=0))
        uniform = RandomPolicy(agent.action_space, 0)
        policy = make_explorer(cfg, agent, uniform)
        assert type(policy) is kind
        if kind is DreamerPolicy:
            assert policy.actor_critic is explorer_of(agent).actor_critic
            assert policy.sample_actions
        if kind is RandomPolicy:
            assert policy is uniform


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (PLAN2EXPLORE, DreamerPolicy),
        ((*PLAN2EXPLORE, "collect=overlap"), SnapshotPolicy),
        (("explore=random",), RandomPolicy),
        ((), type(None)),
    ],
)
def test_a_users_policy_is_given_the_explorer(compose_tiny, words, kind):
    Mixed.made.clear()
    train(compose_tiny(*MIXED, *words, *QUIET))
    (policy,) = Mixed.made
    context = policy.context
    assert type(context.explorer) is kind
    assert context.explore_policy_steps is None
    if kind is SnapshotPolicy:
        assert policy.refreshed == [48, 49, 57, 65, 73]
        explorer = context.components["explore"].actor_critic.actor
        copied = context.explorer.actor_critic.actor
        assert copied is not explorer
        assert context.explorer.generator is not None  # it was refreshed beside the actor


# ----------------------------------------------------------------------------- logs and videos


@pytest.mark.slow
def test_both_actors_are_evaluated_and_logged(explored_run):
    written = {key for line in lines(explored_run) for key in line}
    for area in ("eval", "eval_explore"):
        for name in ("return_mean", "return_std", "length", "episodes"):
            assert f"{area}/{name}" in written
    for key in ("explore/intrinsic_reward", "explore/return", "explore_ensemble/loss"):
        assert key in written
    metrics = json.loads((explored_run / "summary.json").read_text())["metrics"]
    assert metrics["eval/episodes"] == metrics["eval_explore/episodes"] == 1
    assert metrics["explore/intrinsic_reward"] > 0


@pytest.mark.slow
def test_both_actors_are_filmed(compose_tiny):
    words = "callbacks.evaluate.video_policy_steps=5", "callbacks.evaluate.every_frames=1000"
    summary = train(compose_tiny(*PLAN2EXPLORE, *words))
    videos = {path.name for path in (Path(summary.run_dir) / "videos").iterdir()}
    assert videos == {"policy_0000000081.mp4", "policy_explore_0000000081.mp4"}


# ---------------------------------------------------------------------------- saved and resumed

MOVING = ("explore.intrinsic_norm.momentum=0.9", "explore.actor_critic.slow_critic_updates=4")


@pytest.mark.slow
@pytest.mark.parametrize("explore", [PLAN2EXPLORE, ("explore=model_loss",)], ids=lambda x: x[0])
def test_updates_of_an_explorer_after_a_resume_equal_those_of_an_uninterrupted_run(
    compose_tiny,
    after_update,
    explore,
):
    """On the same experience: see the test of the agent."""
    for name, stops in {"whole": (6,), "resumed": (2, 3, 6)}.items():
        for updates in stops:
            with after_update(updates, interrupt), pytest.raises(Interrupted):
                words = "pretrain_updates=6", f"run_dir={name}"
                train(compose_tiny(*explore, *MOVING, *words, *QUIET))
    whole, resumed = checkpoint("whole"), checkpoint("resumed")
    assert whole["counters"]["updates"] == 6
    assert len(whole["optimizer_states"]) == 6
    assert whole["state_dict"]["components.explore.intrinsic_norm.magnitude"] != 1
    assert_same_agent(whole, resumed)


@pytest.mark.slow
def test_a_run_goes_on_with_its_explorer(compose_tiny):
    train(compose_tiny(*PLAN2EXPLORE, *QUIET, "total_frames=64", "run_dir=parts"))
    first = checkpoint("parts")
    parts = train(compose_tiny(*PLAN2EXPLORE, *QUIET, "run_dir=parts"))
    last = checkpoint("parts")
    keys = {k for k in last["state_dict"] if k.startswith("components.explore.")}
    for part in ("ensemble.heads.2", "actor_critic.actor", "actor_critic.critic"):
        moved = [k for k in keys if k.startswith(f"components.explore.{part}.")]
        assert moved
        assert not any(first["state_dict"][k].equal(last["state_dict"][k]) for k in moved)
    steps = [x["optimizer_states"][3]["state"][0]["step"].item() for x in (first, last)]
    assert 0 < steps[0] < steps[1] == parts.updates
    explorer = explorer_of(load("parts", "last").networks)
    assert_close(
        {f"components.explore.{k}": x for k, x in explorer.state_dict().items()},
        {k: last["state_dict"][k] for k in keys},
    )


@pytest.mark.slow
def test_the_explorer_is_part_of_the_name_of_a_run(explored_run):
    assert "explore_plan2explore" in explored_run.parent.name


# ----------------------------------------------------------------------------- users' explorers


@pytest.mark.slow
@pytest.mark.parametrize("collect", ["local", "overlap"])
def test_an_explorer_of_a_users_own_learns_collects_and_is_loaded(compose_tiny, collect):
    curiosity = (
        *("explore=model_loss", "explore._target_=extensions.CuriosityConfig", "~explore.target"),
        *("+explore.outputs=7", "explore.until_frames=70", f"collect={collect}"),
    )
    summary = train(compose_tiny(*curiosity))
    written = [line for line in lines(summary.run_dir) if "explore_predictor/loss" in line]
    assert {"explore/error", "explore/intrinsic_reward", "explore_actor/loss"} <= written[-1].keys()
    assert "eval_explore/return_mean" in summary.metrics
    agent = load(summary.run_dir, "last", policy="explore", allow=["extensions"])
    explorer = explorer_of(agent.networks)
    assert isinstance(explorer, Curiosity)
    action, _ = agent.policy(np.zeros((1, 64, 64), np.uint8))
    assert action in (0, 1)


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (*PLAN2EXPLORE, "collect_policy=random"),
            "`collect_policy` must be actor with explore=plan2explore, got random: .* explore=rand",
        ),
        (
            ("explore=random", "collect_policy=random"),
            "`collect_policy` must be actor with explore=random, got random",
        ),
        (
            (*PLAN2EXPLORE, "explore.offset=16"),
            "`explore.offset` must be less than batch.length, 16, got 16",
        ),
        (
            (*PLAN2EXPLORE, *MIXED, "explore.until_frames=60"),
            "`explore.until_frames` must be null with collect_policy=Mixed, .* got 60",
        ),
        (
            (*PLAN2EXPLORE, "explore.until_frames=-1"),
            "`explore.until_frames` must be a whole number of at least 0 or null, got -1",
        ),
        (
            (*PLAN2EXPLORE, "explore.intrinsic_scale=0"),
            "`intrinsic_scale` or `extrinsic_scale` must be positive, got 0 for both",
        ),
        ((*PLAN2EXPLORE, "explore.ensemble.members=1"), "`.*members` must be at least 2, got 1"),
    ],
)
def test_explorations_that_cannot_be_are_refused(compose_tiny, words, message):
    with pytest.raises(Exception, match=message):
        train(compose_tiny(*words))


@pytest.mark.slow
def test_what_works_with_exploration_is_allowed(compose_tiny):
    checked(compose_tiny(*PLAN2EXPLORE, *MIXED))  # a policy of a user's own decides itself
    checked(compose_tiny(*PLAN2EXPLORE, "explore.offset=15"))
    checked(compose_tiny("explore=random", "explore.until_frames=0"))


def test_a_component_must_not_take_the_name_of_the_explorer(compose_tiny):
    probe = "+model.components.explore"
    cfg = compose_tiny(
        *PLAN2EXPLORE,
        f"{probe}._target_=probe.ProbeConfig",
        f"{probe}.optimizer=${{model.critic_optimizer}}",
        f"{probe}.key=image",
        f"{probe}.size=9",
    )
    message = "`model.components` must not have the name `explore`, .* explore=plan2explore"
    with pytest.raises(ValueError, match=message):
        make_agent(cfg, make_envs(cfg, seed=0))


def test_an_agent_begins_with_the_same_weights_with_an_explorer_as_without(compose_tiny):
    weights, draws = [], []
    for words in (PLAN2EXPLORE, ()):
        cfg = compose_tiny(*words)
        torch.manual_seed(0)
        weights.append(make_agent(cfg, make_envs(cfg, seed=0)).state_dict())
        draws.append(torch.rand(3))
    explored, plain = weights
    assert_close({k: explored[k] for k in plain}, plain, rtol=0, atol=0)
    assert_close(*draws, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["explore=random"], "random collects after the prefill, to the end"),
        (["explore.until_frames=70"], "plan2explore collects until frame 70, then the actor"),
        (["explore.until_frames=48"], "plan2explore never collects: explore.until_frames=48 is"),
        (MIXED, "plan2explore learns; collect_policy chooses who collects"),
    ],
)
def test_the_summary_says_who_collects(compose_tiny, overrides, line):
    cfg = checked(compose_tiny("explore=plan2explore", *overrides))
    assert describe_exploration(cfg, action_repeat=1).startswith(line)


# ------------------------------------------------------------------------------ an ensemble alone


@pytest.mark.slow
def test_with_an_ensemble_alone_the_actor_collects_and_pessimism_is_logged(
    compose_tiny, tmp_path, collections
):
    words = ("explore=ensemble", "explore.ensemble.members=3", "data.pessimism=2")
    train(compose_tiny(*words, *QUIET, f"run_dir={tmp_path}/run"))
    assert collections == []  # nobody chooses between two policies
    last = lines(tmp_path / "run")[-1]
    assert last["imagine/disagreement"] > 0
    assert "explore_ensemble/loss" in last
    assert not [key for key in last if key.startswith(("explore_actor", "eval_explore"))]


def test_the_summary_says_what_the_ensemble_is_for(compose_tiny):
    alone = describe_exploration(compose_tiny("explore=ensemble"), 1)
    assert alone == "ensemble learns; it collects nothing"
    lowered = describe_exploration(compose_tiny("explore=ensemble", "data.pessimism=2"), 1)
    assert lowered == (
        "ensemble learns, which lowers imagined rewards with weight 2; it collects nothing"
    )


def test_pessimism_without_an_ensemble_is_refused(compose_tiny):
    cfg = checked(compose_tiny("data.pessimism=2"))
    with pytest.raises(ValueError, match="`data.pessimism` must be 0 without an ensemble, got 2"):
        make_agent(cfg, make_envs(cfg, seed=0))


def test_a_model_of_ones_own_must_pass_the_pessimism_on(compose_tiny):
    cfg = compose_tiny("explore=ensemble", "data.pessimism=2", "model.pessimism=0")
    with pytest.raises(ValueError, match=r"`model.pessimism` must be \$\{data.pessimism\}"):
        checked(cfg)


def test_an_ensemble_alone_may_learn_beside_random_collection(compose_tiny):
    checked(compose_tiny("explore=ensemble", "collect_policy=random"))
