"""Names of data sets and of kinds of tables."""

EMNIST = tuple(f"emnist-{part}" for part in ("balanced", "byclass", "bymerge", "digits", "letters", "mnist"))
DATASETS = ("mnist", "fashion-mnist", "synthetic", *EMNIST)
TABLES = ("csv", "npz")  # what stands before the colon of a person's own file
OWN = " or ".join(f"{kind}:FILE" for kind in TABLES)
HEADERS = ("yes", "no")
