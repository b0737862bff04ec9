"""The keys of conf/train.yaml and conf/evaluate.yaml, each declared once.

`config.py` validates a configuration against them; `--help` documents them. Each `_target_`
declares its own keys. Defaults are in conf/.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from dreamer.schema.types import (
    AtLeastTwo,
    Count,
    Folder,
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
    """The data of one update."""

    size: Annotated[PositiveCount, doc("Sequences in a batch.", source=AUTHORS)]
    length: Annotated[
        AtLeastTwo, doc("Length of each sequence.", unit="policy steps", source=AUTHORS)
    ]


@dataclass
class Data(Section):
    """Stored experience."""

    prefill: Annotated[
        str | None,
        doc("Address of episodes of any format, or of a run, that begin the replay; null: none."),
    ]
    mix: Annotated[
        OpenFraction | None,
        doc("Share of the episodes of data.prefill in every batch; null: they become older."),
    ] = None
    train: Annotated[
        str | list[Any] | None,
        doc("Address of episodes to learn from with collect=none, or a list with weights."),
    ] = None
    rename: Annotated[
        Mapping[str, str] | None,
        doc("Names of observations here by those in the data: {vecobs: vector}; null: the same."),
    ] = None
    holdout: Annotated[
        OpenFraction | str | None,
        doc(
            "Episodes that are scored and never trained on: a share of the data, or the address of "
            "others; null: none."
        ),
    ] = None
    pessimism: Annotated[
        NonNegative,
        doc(
            "Weight of the ensemble's disagreement, subtracted from imagined rewards; 0: none. "
            "Needs explore=ensemble or plan2explore.",
            source="Lu et al. 2022",
        ),
    ] = 0.0


@dataclass
class Collection(Section):
    """How the environments step."""

    where: Annotated[Literal["local", "none"], doc("Collect in this process, or not at all.")]
    overlap: Annotated[
        bool, doc("Step environments while the device updates; changes the random draws.")
    ]


@dataclass
class Stochastic(Section):
    """Sizes of the stochastic state."""

    variables: Annotated[PositiveCount, doc("Variables of the stochastic state.", source=AUTHORS)]
    classes: Annotated[
        AtLeastTwo,
        doc("Classes of each variable, if it is categorical.", source=AUTHORS),
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
    """Periodic actions."""

    metrics: Annotated[Node, doc("Log averages.")]
    evaluate: Annotated[Node | None, doc("Play evaluation episodes; null: no evaluation.")]
    video: Annotated[
        Node | None, doc("Record open-loop predictions and the truth; null: no videos.")
    ]
    checkpoint: Annotated[Node, doc("Save the run.")]
    progress: Annotated[Node | None, doc("Print the progress; null: print nothing.")]
    holdout: Annotated[Node | None, doc("Score the episodes of data.holdout; null: no scores.")] = (
        None
    )


@dataclass
class Trainer(Section):
    """The keys of Lightning's Trainer that this project sets; all others may be added."""

    accelerator: Annotated[
        Literal["auto", "cpu", "gpu", "cuda", "mps"],
        doc("Kind of device; auto: cuda if available, else cpu."),
    ]
    devices: Annotated[Any, doc("Number of devices; only 1 is supported.")]
    max_epochs: Annotated[int, doc("Epochs; -1: no limit, because `total_frames` ends the run.")]
    enable_progress_bar: Annotated[
        bool, doc("Show Lightning's bar; `callbacks.progress` counts frames.")
    ]
    enable_model_summary: Annotated[bool, doc("Print Lightning's summary of the networks.")]
    enable_checkpointing: Annotated[
        bool, doc("Save by Lightning's rules; `callbacks.checkpoint` saves by frames.")
    ]
    num_sanity_val_steps: Annotated[int, doc("Validation steps before training.")]
    profiler: Annotated[
        Any, doc("Print at the end where the time went: simple, advanced, or a node; null: no.")
    ]


@dataclass(kw_only=True)
class TrainSettings(Section):
    """The keys of conf/train.yaml, in the order of validation and help."""

    headings: ClassVar[dict[str, str]] = {  # by the first key of each group
        "kl_balance": "Ablation switches:",
        "probe_gradients": "Probes:",
        "iwae_samples": "Features of PyDreamer:",
        "init_from": "Fine-tuning:",
        "prefill_policy_steps": "Collection and learning:",
    }

    task: Annotated[str, doc("Game or task of the environment: pong, walker_walk, ...")]
    env_name: Annotated[str, doc("Name of the environment in folders and tables.")]
    seed: Annotated[Seed, doc("Seed of all random numbers.")]
    total_frames: Annotated[
        PositiveCount,
        doc(
            "Length of the run, including the prefill.", unit="frames", source="the paper's budget"
        ),
    ]
    total_updates: Annotated[
        PositiveCount | None,
        doc(
            "Length of a run with collect=none; null: as in an online run of total_frames.",
            unit="updates",
        ),
    ] = None
    root: Annotated[Folder, doc("Folder of all run folders.")]
    run_dir: Annotated[
        Folder | None, doc("Folder of this run; null: <root>/<env>/<task>/<variant>/seed<seed>.")
    ]
    variant: Annotated[
        str | None,
        doc("Name of the variant; null: the experiment's name and the changed switches."),
    ]
    experiment_name: Annotated[str, doc("Name of the experiment; names the variant.")]
    precision: Annotated[
        Literal["auto", "32-true", "bf16-mixed", "16-mixed"],
        doc(
            "Precision of the networks; auto: on CUDA bf16-mixed, or 16-mixed if the device has "
            "no bfloat16; else 32-true."
        ),
    ]
    kernels: Annotated[
        Literal["auto", "plain"],
        doc("auto: faster forms of the same networks on a CPU; plain: the models as written."),
    ]
    cuda_graphs: Annotated[
        bool, doc("Capture updates and policy calls as CUDA graphs; needs CUDA.")
    ]
    switches: Annotated[
        list[str], doc("Keys that change the algorithm; changed ones name the variant.")
    ]
    kl_balance: Annotated[
        bool | OpenFraction,
        doc("Weight of the prior's KL gradient; true: 0.8, false: 0.5, the plain KL."),
    ]
    image_gradients: Annotated[bool, doc("Let images train the latent state.")]
    reward_gradients: Annotated[bool, doc("Let rewards train the latent state.")]
    layer_norm: Annotated[bool, doc("Use layer norm in the GRU.")]
    reward_input: Annotated[
        bool, doc("Encode reward and terminal of the step, too.", source="PyDreamer")
    ]
    actor_gradient: Annotated[
        Literal["auto", "reinforce", "dynamics", "both"],
        doc("Gradient of the actor; auto: reinforce for discrete actions, else dynamics."),
    ]
    probe_gradients: Annotated[
        bool,
        doc("Let the probe train the world model, too: its loss is added to the model's."),
    ] = False
    iwae_samples: Annotated[
        PositiveCount,
        doc("Posterior samples of every sequence; more than one: the loss of IWAE."),
    ]
    init_from: Annotated[
        str | None,
        doc("Run folder (its last.ckpt) or checkpoint with the initial weights; null: none."),
    ]
    init_weights: Annotated[Literal["all", "world_model"], doc("Weights that `init_from` loads.")]
    prefill_policy_steps: Annotated[
        Count,
        doc(
            "Random steps before the first update; 0 needs data.prefill.",
            unit="policy steps",
            source=AUTHORS,
        ),
    ]
    pretrain_updates: Annotated[Count, doc("Updates before the actor first acts.", source=AUTHORS)]
    train_every_policy_steps: Annotated[
        PositiveCount,
        doc("Interval between updates.", unit="policy steps", source=AUTHORS),
    ]
    exploration_noise: Annotated[
        NonNegative,
        doc("Probability of a random action, or standard deviation added to a continuous one."),
    ]
    collect_policy: Annotated[
        Node, doc("Policy that collects after the prefill: actor, random, or your own class.")
    ]
    explore: Annotated[
        Node | Mapping[str, Any],
        doc("How experience is sought beyond the task's reward: none, or an explorer."),
    ] = field(default_factory=dict)
    probe: Annotated[
        Node | Mapping[str, Any],
        doc("What is read from the features, for insight: none, map, goals, map_goals."),
    ] = field(default_factory=dict)
    collect: Annotated[Collection, doc("How the environments step.")]
    batch: Annotated[Batch, doc("Data of one update.")]
    data: Annotated[Data, doc("Stored experience.")]
    # A model of your own may omit these two.
    stochastic: Annotated[Stochastic | None, doc("Sizes of the stochastic state.")] = None
    sizes: Annotated[Sizes | None, doc("Sizes of the networks.")] = None
    latents: Annotated[Node, doc("Kind of stochastic state.")]
    returns: Annotated[
        Node, doc("Targets of actor and critic: lambda (DreamerV2), gae (PyDreamer), or your own.")
    ]
    cell: Annotated[Node, doc("Recurrent cell.")]
    env: Annotated[Node, doc("The environment.")]
    replay: Annotated[Node, doc("Replay buffer on disk, and the sampling of sequences.")]
    model: Annotated[Node, doc("The networks, losses and optimisers.")]
    callbacks: Annotated[Callbacks, doc("Periodic actions.")]
    logger: Annotated[Mapping[str, Node | None], doc("Destinations of metrics and videos.")]
    trainer: Annotated[Node | Trainer, doc("Lightning's Trainer.")]


@dataclass
class CheckSettings(Section):
    """The keys of `dreamer.check` in addition to those of conf/train.yaml."""

    steps: Annotated[PositiveCount, doc("Length of the check.", unit="policy steps")] = 1000


@dataclass
class EvaluateSettings(Section):
    """The keys of conf/evaluate.yaml."""

    run_dir: Annotated[str | None, doc("Folder of a finished or active run.")]
    pretrained: Annotated[
        str | None,
        doc("A trained agent instead of a run: its name, or a folder or address of an export."),
    ]
    checkpoint: Annotated[
        Literal["best", "last"],
        doc("Weights to load; best falls back to last."),
    ]
    policy: Annotated[
        Literal["actor", "explore"],
        doc("Who plays: the actor, or the explorer of a run with exploration."),
    ]
    episodes: Annotated[PositiveCount, doc("Episodes to play.")]
    seed: Annotated[Seed, doc("Seed of the episodes.")]
    sample_actions: Annotated[
        bool, doc("Sample actions as in training, instead of the actor's mode.")
    ]
    video: Annotated[bool, doc("Record the first episode in the folder `videos` of the run.")]
    video_policy_steps: Annotated[
        PositiveCount, doc("Maximum length of the video.", unit="policy steps")
    ]
    video_fps: Annotated[PositiveCount, doc("Images per second of the video.")]
    allow: Annotated[
        str | list[str],
        doc("Packages whose code the run may use: my_package, or a list; it is run."),
    ]
    max_episode_policy_steps: Annotated[
        PositiveCount,
        doc("Maximum length of an episode; a longer one is cut.", unit="policy steps"),
    ] = 30_000
