"""The learning rate matches torch, and is a pure function of the step."""

import numpy as np
import pytest

from distnet.nn.schedules import Schedule

STEPS = 7  # an epoch


def factors(schedule, epochs):
    return schedule.factors(np.arange(epochs * STEPS), STEPS).tolist()


@pytest.mark.parametrize(
    ("schedule", "made"),
    [
        (Schedule("step", 4, 0.3, 2), lambda lr, rule: lr.StepLR(rule, 2 * STEPS, 0.3)),
        (Schedule("exponential", 4, 0.3, 1), lambda lr, rule: lr.ExponentialLR(rule, 0.3 ** (1 / STEPS))),
        (Schedule("cosine", 4), lambda lr, rule: lr.CosineAnnealingLR(rule, 4 * STEPS)),
        (Schedule(), lambda lr, rule: lr.ConstantLR(rule, 1)),
    ],
    ids=lambda value: value.kind if isinstance(value, Schedule) else "",
)
def test_rates_are_those_of_torch(schedule, made):
    torch = pytest.importorskip("torch", reason="needs the extra peers")
    rule = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = made(torch.optim.lr_scheduler, rule)
    theirs = []
    for _ in range(4 * STEPS):
        theirs.append(rule.param_groups[0]["lr"])
        rule.step()
        scheduler.step()
    assert factors(schedule, 4) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("kind", ["constant", "step", "exponential", "cosine"])
def test_a_warm_up_rises_in_a_straight_line_and_the_kind_begins_after_it(kind):
    warm, cold = Schedule(kind, 5, 0.5, 1, warmup_epochs=2), Schedule(kind, 3, 0.5, 1)
    found = factors(warm, 5)
    rise = [b - a for a, b in zip(found, found[1:], strict=False)][: 2 * STEPS - 1]
    assert found[0] > 0
    assert rise == pytest.approx([rise[0]] * len(rise))
    assert found[2 * STEPS :] == pytest.approx(factors(cold, 3))


def test_a_warm_up_longer_than_the_run_is_no_error():
    assert factors(Schedule("cosine", 2, warmup_epochs=9), 2)[-1] < 1


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_steps_without_number_decay_to_the_least_rate_at_once(decay):
    found = factors(Schedule("step", 4, decay, 1e-25), 4)
    assert found[0] == 1
    assert found[1] == found[-1] == pytest.approx(0, abs=1e-300)
