"""What a person typed wrongly, said on one line.

The doors (`train.py`, `dreamer/evaluate.py`) use it. It knows Hydra's sentences, but not Hydra.
"""

import re

_MODEL = "model.world_model"
# Keys of earlier versions, and what to write instead.
REPLACED = {
    "compile": "`compile` was replaced by `kernels`: kernels=auto computes faster, kernels=plain "
    "runs the models as they are written, and nothing is compiled.",
    **{
        f"{_MODEL}.{old}": f"`{_MODEL}.{old}` was replaced by `{_MODEL}.{new}`."
        for name in ("reward", "discount")
        for old, new in (
            (f"{name}_head", f"heads.{name}"),
            (f"{name}_gradients", f"heads.{name}.gradients"),
            (f"loss_scales.{name}", f"heads.{name}.scale"),
        )
    },
}


def explain(error: BaseException) -> str:
    """Shorten what Hydra says of a command line to one line."""
    text = str(error).split("Config search path:")[0]
    found = re.search(r"override '([^']+)'", text)
    if found and (remedy := replacement(found[1])):
        return remedy
    text = re.sub(r"To append to your .*", "`--cfg job` shows every key.", text)
    return " ".join(text.split())


def replacement(key: str) -> str | None:
    """What to write instead of a key of an earlier version, or of one below it."""
    return next((x for old, x in REPLACED.items() if f"{key}.".startswith(f"{old}.")), None)
