"""Networks: parameters, forward pass and backprop, optimizers, schedules, random draws."""
