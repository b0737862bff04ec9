"""The goals probe: where goals are, as seen from the agent."""

from golden import Case, golden
from probes import GOAL, GOALS, check_gradients, goals_probe

from dreamer.models.probes import GoalsData


@golden("27_*", bf16=True)
def test_goals_probe(case: Case, optimized):
    features = case["in/features"].requires_grad_()
    probe = optimized(goals_probe(case.under("w"), features.shape[-1]))
    data = GoalsData(
        case["in/goal_direction"],
        case["in/goals_direction"].unflatten(-1, (-1, 2)),
        case["in/goals_visage"],
    )

    output = probe(features, data)
    case.check("out/loss", output.loss)
    case.check_all("out/metrics", output.metrics)
    tensors = output.tensors
    tensors["goals_direction_pred"] = tensors["goals_direction_pred"].flatten(-2)
    case.check_all("out/tensors", tensors)

    output.loss.backward()
    assert features.grad is not None
    case.check("grad/features_if_not_stopped", features.grad)
    check_gradients(case, probe.target, GOAL)
    check_gradients(case, probe.targets, GOALS)
