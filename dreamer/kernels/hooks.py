"""Whether the modules of a network have hooks."""

import torch.nn.modules.module as torch_module
from torch import nn

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def has_hooks(network: nn.Module) -> bool:
    """Whether a hook is registered on the network, on a module in it, or on all modules.

    A hook must get what the plain network computes, so kernels that skip modules are not used then.
    """
    if any(getattr(torch_module, f"_global{name}") for name in HOOKS):
        return True
    return any(getattr(module, name) for module in network.modules() for name in HOOKS)
