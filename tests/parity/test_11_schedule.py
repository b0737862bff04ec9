import torch
from golden import Case, golden

from dreamer.schedules import parse_schedule


@golden("11_*")
def test_schedule(case: Case):
    schedules = [parse_schedule(text) for text in case.parameters["strings"]]
    steps = case.array("in/steps").tolist()
    values = [[schedule(step) for step in steps] for schedule in schedules]
    case.check("out/values", torch.tensor(values))
