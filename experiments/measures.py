"""What a run logs that reports draw: titles, units and keys.

`experiments/run_folder.py` reads these keys, `experiments/learning.py` draws them. docs/logs.md
explains every key.
"""

from typing import NamedTuple

RETURN = "collect/return"
EVALUATION = "eval/return_mean"
CLIPPED = "norm before clipping"
VALUE_ERROR = "critic/value_error"  # of reports: no run logs it
DIFFERENCES = {VALUE_ERROR: ("critic/value", "critic/target")}  # the first minus the second


class Measure(NamedTuple):
    """One chart.

    Attributes:
        title: a few words.
        unit: of the y axis.
        lines: keys by the name of the line; of several keys, those of one line, runs have one.
        note: a sentence on how to read it.
    """

    title: str
    unit: str
    lines: dict[str, tuple[str, ...]]
    note: str = ""


MEASURES = (
    Measure("Return of training episodes", "raw reward", {"": (RETURN,)}, "Exploration included."),
    Measure(
        "Return in evaluation",
        "raw reward",
        {"": (EVALUATION,)},
        "Played with the actor's mode.",
    ),
    Measure("World model's loss", "nats", {"": ("world_model/loss",)}),
    Measure(
        "Image loss", "nats per image", {"": ("observations/image_nll", "world_model/image_nll")}
    ),
    Measure(
        "Vector loss",
        "nats per vector",
        {"": ("observations/vector_nll", "world_model/vector_nll")},
    ),
    Measure(
        "Reward loss",
        "nats",
        {"": ("world_model/reward_nll",)},
        "The minimum of a normal is 0.92 nats.",
    ),
    Measure(
        "KL divergence",
        "nats per step",
        {"": ("world_model/kl",)},
        "From the prior to the posterior: what an observation adds to the prediction.",
    ),
    Measure(
        "Entropy of the latent state",
        "nats",
        {
            "posterior": ("world_model/posterior_entropy",),
            "prior": ("world_model/prior_entropy",),
        },
    ),
    Measure("Entropy of the actor", "nats", {"": ("actor/entropy",)}),
    Measure("Actor's loss", "", {"": ("actor/loss",)}, "Its size means little by itself."),
    Measure("Critic's loss", "nats", {"": ("critic/loss",)}),
    Measure(
        "Value of imagined states",
        "return",
        {"value": ("critic/value",), "target": ("critic/target",)},
    ),
    Measure(
        "Value error",
        "return",
        {"": (VALUE_ERROR,)},
        "The critic's value minus its target: above 0, the critic expects too much.",
    ),
    Measure("Gradient of the world model", CLIPPED, {"": ("grad_norm/world_model",)}),
    Measure("Gradient of the actor", CLIPPED, {"": ("grad_norm/actor",)}),
    Measure("Gradient of the critic", CLIPPED, {"": ("grad_norm/critic",)}),
    Measure("Speed", "frames per second", {"": ("perf/frames_per_second",)}),
    Measure("Speed of learning", "updates per second", {"": ("perf/updates_per_second",)}),
)
KEYS = tuple(key for measure in MEASURES for keys in measure.lines.values() for key in keys)
