"""Options that have no effect beside others."""

from distnet.config.options import Config
from distnet.datasets.options import DEFAULT, NAMED_TABLES, TABLES

# Options that only some values of another option use.
USED_BY = {
    "momentum": ("optimizer", ("momentum", "nesterov")),
    "betas": ("optimizer", ("adam", "adamw")),
    "epsilon": ("optimizer", ("adam", "adamw")),
    "decay": ("schedule", ("step", "exponential")),
    "decay_epochs": ("schedule", ("step", "exponential")),
    "header": ("dataset", ("csv:FILE",)),
    **dict.fromkeys(
        ("target", "ignore", "weight", "split_column"), ("dataset", tuple(f"{kind}:FILE" for kind in NAMED_TABLES))
    ),
    **dict.fromkeys(("task", "test_share", "validation_data"), ("dataset", tuple(f"{kind}:FILE" for kind in TABLES))),
}


def find_ineffective(config: Config) -> dict[str, tuple[str, str]]:
    """The options that have no effect beside the others, each with the problem and the remedy."""
    found = {}
    dataset = config.dataset or DEFAULT
    kind, _, table = dataset.partition(":")
    values = {"optimizer": config.optimizer, "schedule": config.schedule, "dataset": dataset}
    for name, (other, users) in USED_BY.items():
        if (f"{kind}:FILE" if other == "dataset" else values[other]) not in users:
            found[name] = f"has no effect with --{other} {values[other]}", f"choose --{other} {' or '.join(users)}"
    if config.checkpoint_dir is None:
        no_checkpoints = "there are no checkpoints", "add --checkpoint-dir DIR"
        found |= dict.fromkeys(("checkpoint_every", "keep", "resume"), no_checkpoints)
    if config.arithmetic == "portable":
        native = "use --arithmetic native"
        found |= dict.fromkeys(("shards", "stack"), ("portable arithmetic has the same bits without", native))
        if config.dtype != "float64":
            found["dtype"] = "portable arithmetic is float64", native
    if not config.hidden:
        found["dropout"] = "there is no hidden layer", "add one with --hidden K"
    if table:
        found |= dict.fromkeys(("data_dir", "train_samples"), (f"--dataset {dataset} names its file", "leave it out"))
    if config.quiet and config.profile == "":
        found["profile"] = "--quiet prints only the last two lines", "leave one of the two out"
    if table and config.task not in (None, "classification"):
        of_classes = ("class_weight", "label_smoothing", "tutorial_loss")
        found |= dict.fromkeys(of_classes, (f"the task is {config.task}", "leave it out"))
    if table and config.split_column is not None:
        rows = f"--split-column {config.split_column} names the rows of each set"
        found |= dict.fromkeys(("test_share", "validation", "validation_data", "split_seed"), (rows, "leave it out"))
    elif table and config.validation_data is not None:
        found["validation"] = "--validation-data names the validation set", "leave one of the two out"
    elif not config.validation:
        found["patience"] = "there is no validation set", "add --validation K"
        if not table:
            found["split_seed"] = "no rows are held out", "add --validation K, or name a table with --dataset"
    return found
