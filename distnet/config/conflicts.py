"""Options that have no effect beside others."""

from distnet.config.options import Config
from distnet.datasets.names import DEFAULT, TABLES

# Options that mean something to some optimizers alone.
FOR_OPTIMIZERS = {
    "momentum": ("momentum", "nesterov"),
    "betas": ("adam", "adamw"),
    "epsilon": ("adam", "adamw"),
}
# To some schedules alone.
FOR_SCHEDULES = {"decay": ("step", "exponential"), "decay_epochs": ("step", "exponential")}
# And to some kinds of tables alone.
FOR_TABLES = {"label": ("csv",), "header": ("csv",), "ignore": ("csv",), "test_share": TABLES}


def find_ineffective(config: Config) -> dict[str, str]:
    """The options that mean nothing beside the others, each with what to tell who gave it."""
    told, dataset = {}, config.dataset or DEFAULT
    kind = dataset.partition(":")[0]
    if config.checkpoint_dir is None:
        told = dict.fromkeys(
            ("checkpoint_every", "keep", "resume"), "there are no checkpoints without --checkpoint-dir DIR"
        )
    for name, optimizers in FOR_OPTIMIZERS.items():
        if config.optimizer not in optimizers:
            told[name] = f"--optimizer {config.optimizer} has none; choose --optimizer {' or '.join(optimizers)}"
    for name, schedules in FOR_SCHEDULES.items():
        if config.schedule not in schedules:
            told[name] = f"--schedule {config.schedule} has none; choose --schedule {' or '.join(schedules)}"
    if not config.hidden:
        told["dropout"] = "there is no hidden layer to leave neurons out of; give --hidden some"
    if kind in TABLES:
        told |= dict.fromkeys(("data_dir", "train_samples"), f"--dataset {dataset} names its file; leave it out")
    if config.quiet:
        told["profile"] = "--quiet prints the last two lines alone; leave one of the two out"
    if not config.validation:
        told["patience"] = "there is nothing to measure by without --validation K"
    if not config.validation and kind not in TABLES:
        told["split_seed"] = "no rows are held out without --validation K or a table"
    for name, tables in FOR_TABLES.items():
        if kind not in tables:
            right = " or ".join(f"--dataset {each}:FILE" for each in tables)
            told[name] = f"--dataset {dataset} has none; choose {right}"
    return told
