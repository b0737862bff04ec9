"""The keys of conf/train.yaml and conf/evaluate.yaml, each declared once.

`config.py` checks a configuration against them, `help.py` explains them. What a `_target_` names
declares its own keys. Defaults are in conf/.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from dreamer.schema.types import (
    AtLeastTwo,
    Count,
    Node,
    NonNegative,
    OpenFraction,
    PositiveCount,
    Section,
    Seed,
    doc,
)

AUTHORS = "the authors' configuration for Atari"


@dataclass
class Batch(Section):
    """What one update learns from."""

    size: Annotated[PositiveCount, doc("Sequences in a batch.", source=AUTHORS)]
    length: Annotated[
        AtLeastTwo, doc("Length of each sequence.", unit="policy steps", source=AUTHORS)
    ]


@dataclass
class Collection(Section):
    """Where the environments step."""

    where: Annotated[
        Literal["local", "none"], doc("In this process, or not at all while the agent learns.")
    ]
    overlap: Annotated[
        bool, doc("Let environments step while the device updates; other random draws.")
    ]


@dataclass
class Stochastic(Section):
    """Sizes of the stochastic state."""

    variables: Annotated[PositiveCount, doc("Variables of the stochastic state.", source=AUTHORS)]
    classes: Annotated[
        AtLeastTwo,
        doc("Classes of each variable, where they are categorical.", source=AUTHORS),
    ]


@dataclass
class Sizes(Section):
    """Sizes of the networks."""

    deter: Annotated[PositiveCount, doc("Units of the GRU.", source="the paper")]
    hidden: Annotated[PositiveCount, doc("Units of the dense layers around the GRU.")]
    units: Annotated[PositiveCount, doc("Units of every layer of every head.")]
    layers: Annotated[Count, doc("Layers of every head.")]
    depth: Annotated[PositiveCount, doc("Channels of the outermost convolution.")]


@dataclass
class Callbacks(Section):
    """What happens now and then."""

    metrics: Annotated[Node, doc("Writes averages to the loggers.")]
    evaluate: Annotated[Node | None, doc("Plays episodes; null: no evaluation.")]
    video: Annotated[Node | None, doc("Films dreams beside the truth; null: no films.")]
    checkpoint: Annotated[Node, doc("Saves the run.")]
    progress: Annotated[Node | None, doc("Shows how far the run is; null: shows nothing.")]


@dataclass
class Trainer(Section):
    """What this project sets of Lightning's Trainer, which has more keys."""

    accelerator: Annotated[
        Literal["auto", "cpu", "gpu", "cuda", "mps"],
        doc("Kind of device; auto: the best there is."),
    ]
    devices: Annotated[Any, doc("Devices to train on: 1, all that is supported.")]
    max_epochs: Annotated[int, doc("Epochs; -1: no limit, since frames end the run.")]
    enable_progress_bar: Annotated[bool, doc("Show Lightning's bar; ours counts frames.")]
    enable_model_summary: Annotated[bool, doc("Print Lightning's summary of the networks.")]
    enable_checkpointing: Annotated[bool, doc("Save by Lightning's rules; ours saves by frames.")]
    num_sanity_val_steps: Annotated[int, doc("Validation steps before training.")]


@dataclass(kw_only=True)
class TrainSettings(Section):
    """The keys of conf/train.yaml, in the order in which they are checked and explained."""

    headings: ClassVar[dict[str, str]] = {  # by the first key of each group
        "kl_balance": "Switches of the ablations:",
        "prefill_policy_steps": "Collecting and learning:",
    }

    task: Annotated[str, doc("Game or task of the environment: pong, walker_walk, ...")]
    env_name: Annotated[str, doc("Name of the environment in folders and tables.")]
    seed: Annotated[Seed, doc("Seed of everything random.")]
    total_frames: Annotated[
        PositiveCount,
        doc("Length of the run, prefill included.", unit="frames", source="the paper's budget"),
    ]
    root: Annotated[str, doc("Folder of all run folders.")]
    run_dir: Annotated[
        str | None, doc("Folder of this run; null: <root>/<env>/<task>/<variant>/seed<seed>.")
    ]
    variant: Annotated[
        str | None,
        doc("Name of the variant; null: the experiment's and the switches that differ."),
    ]
    experiment_name: Annotated[str, doc("Names the variant; each experiment sets its own.")]
    precision: Annotated[
        Literal["auto", "32-true", "bf16-mixed"],
        doc("Precision of the networks; auto: bf16-mixed on CUDA, else 32-true."),
    ]
    kernels: Annotated[
        Literal["auto", "plain"],
        doc("auto: faster forms of the same networks on a CPU; plain: the models as written."),
    ]
    cuda_graphs: Annotated[
        bool, doc("Record updates and policy calls once and replay them; needs CUDA.")
    ]
    switches: Annotated[
        list[str], doc("Keys that change what is learned; changed ones name the run's variant.")
    ]
    kl_balance: Annotated[
        bool | OpenFraction,
        doc("Share of the prior's gradient in the KL; true: 0.8, false: 0.5, the plain KL."),
    ]
    image_gradients: Annotated[bool, doc("Let images train the latent state.")]
    reward_gradients: Annotated[bool, doc("Let rewards train the latent state.")]
    layer_norm: Annotated[bool, doc("Use layer norm in the GRU.")]
    actor_gradient: Annotated[
        Literal["auto", "reinforce", "dynamics", "both"],
        doc("Gradient of the actor; auto: reinforce for discrete actions, else dynamics."),
    ]
    prefill_policy_steps: Annotated[
        Count,
        doc("Random steps before the first update.", unit="policy steps", source=AUTHORS),
    ]
    pretrain_updates: Annotated[
        Count, doc("Updates before the actor acts for the first time.", source=AUTHORS)
    ]
    train_every_policy_steps: Annotated[
        PositiveCount,
        doc("From one update to the next.", unit="policy steps", source=AUTHORS),
    ]
    exploration_noise: Annotated[
        NonNegative,
        doc("Probability of a random action, or standard deviation added to a continuous one."),
    ]
    collect_policy: Annotated[
        Node, doc("Who collects after the prefill: actor, random, or a class of yours.")
    ]
    explore: Annotated[Mapping[str, Any], doc("What rewards exploration.")] = field(
        default_factory=dict
    )
    collect: Annotated[Collection, doc("Where the environments step.")]
    batch: Annotated[Batch, doc("What one update learns from.")]
    # A model of your own need not have these two.
    stochastic: Annotated[Stochastic | None, doc("Sizes of the stochastic state.")] = None
    sizes: Annotated[Sizes | None, doc("Sizes of the networks.")] = None
    latents: Annotated[Node, doc("Kind of stochastic state.")]
    env: Annotated[Node, doc("The environment.")]
    replay: Annotated[Node, doc("Experience on disk, and how sequences are drawn from it.")]
    model: Annotated[Node, doc("The networks and how they learn.")]
    callbacks: Annotated[Callbacks, doc("What happens now and then.")]
    logger: Annotated[Mapping[str, Node | None], doc("Where numbers and videos go.")]
    trainer: Annotated[Node | Trainer, doc("Lightning's Trainer.")]


@dataclass
class CheckSettings(Section):
    """The keys of `dreamer.check` beside those of conf/train.yaml."""

    steps: Annotated[PositiveCount, doc("Length of the look.", unit="policy steps")] = 1000


@dataclass
class EvaluateSettings(Section):
    """The keys of conf/evaluate.yaml."""

    run_dir: Annotated[str, doc("Folder of a finished or running run.")]
    checkpoint: Annotated[
        Literal["best", "last"],
        doc("Weights to play with; best falls back to last where there is none."),
    ]
    episodes: Annotated[PositiveCount, doc("Episodes to play.")]
    seed: Annotated[Seed, doc("Seed of the episodes.")]
    sample_actions: Annotated[
        bool, doc("Play as in training, with sampled actions, not with the actor's mode.")
    ]
    video: Annotated[bool, doc("Film the first episode into the folder `videos` of the run.")]
    video_policy_steps: Annotated[
        PositiveCount, doc("Length of the film at most.", unit="policy steps")
    ]
    video_fps: Annotated[PositiveCount, doc("Pictures a second of the film.")]
