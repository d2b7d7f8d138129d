"""Options: files of them, presets, defaults, checks, and what each one says of itself."""

import json
import os
import runpy
import subprocess
import sys
import tomllib
from dataclasses import astuple, fields, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from distnet import NeuralNetwork, evaluate, plan
from distnet.config.options import PRESET_FOLDER, PRESETS, Config
from distnet.config.parser import USUAL_NAMES
from distnet.config.reading import build_parser, read_config, read_options, to_toml
from distnet.nn.optimizers import LEARNING_RATES, Hyperparameters
from distnet.runtime.errors import HelpWanted, InputError
from distnet.training.history import Epoch


def config(*arguments):
    return read_config(arguments)


def refusal(*arguments):
    with pytest.raises(InputError) as refused:
        read_config(arguments)
    assert refused.value.on_every_rank
    return str(refused.value)


def helped():
    """What --help prints, with single blanks."""
    return " ".join(build_parser().format_help().split())


def test_nothing_typed_gives_the_mnist_preset():
    mnist = Config(**read_options(PRESET_FOLDER / "mnist.toml"))
    assert read_config([]) == mnist


@pytest.mark.parametrize("name", ["csv:a.csv", "npz:a.npz", "parquet:a.parquet"])
def test_a_table_gives_the_preset_table_unless_another_is_named_by_option_or_file(tmp_path, name):
    table, typed = (
        Config(preset="table", dataset=name, **read_options(PRESET_FOLDER / "table.toml")),
        ("--dataset", name),
    )
    without = file(tmp_path, 'arithmetic = "portable"')
    assert config(*typed) == config("--config", str(without), *typed) == table
    mnist = config(*typed, "--preset", "mnist")
    assert (mnist.preset, mnist.hidden, mnist.optimizer) == ("mnist", config().hidden, config().optimizer)
    path = file(tmp_path, f'arithmetic = "portable"\ndataset = "{name}"')
    assert config("--config", str(path)) == table
    assert config("--config", str(path), "--dataset", "mnist") == replace(config(), dataset="mnist")
    path = file(tmp_path, 'arithmetic = "portable"\npreset = "mnist"')
    assert config("--config", str(path), *typed) == mnist


def test_the_decoupled_weight_decay_of_adamw_is_not_passed_on_to_another_optimizer(tmp_path):
    table = ("--dataset", "csv:a.csv")
    assert config(*table).weight_decay > 0.1
    assert config(*table, "--optimizer", "sgd").weight_decay == 0
    assert config(*table, "--optimizer", "sgd", "--weight-decay", "0.1").weight_decay == 0.1
    assert config("--optimizer", "adamw").weight_decay == config().weight_decay  # L2 is small enough for all


def file(folder, text):
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_without_a_typed_learning_rate_an_optimizer_has_its_own_default_and_a_preset_keeps_its_pair(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text('optimizer = "adamw"\nlearning_rate = 0.004\n')
    own = ("--config", str(file))
    rates = {
        (): 0.3,  # the preset's
        ("--optimizer", "sgd"): 0.3,
        ("--optimizer", "adam"): LEARNING_RATES["adam"],
        ("--optimizer", "momentum"): LEARNING_RATES["momentum"],
        ("--optimizer", "adam", "--learning-rate", "0.02"): 0.02,
        own: 0.004,
        (*own, "--optimizer", "adamw"): 0.004,
        (*own, "--optimizer", "sgd"): LEARNING_RATES["sgd"],
        (*own, "--learning-rate", "0.5"): 0.5,
    }
    assert {words: config(*words).learning_rate for words in rates} == rates


def test_the_command_and_a_network_have_the_same_defaults():
    command, (X, Y) = Config(), (np.eye(4), np.eye(2)[[0, 1, 0, 1]])
    defaults = Hyperparameters()
    assert astuple(defaults) == (command.optimizer, command.momentum, command.betas, command.epsilon, 0.0, None, 0.0)
    for optimizer, rate in LEARNING_RATES.items():
        epochs: list[Epoch] = []
        hyperparameters = Hyperparameters(optimizer)
        NeuralNetwork([4, 2]).train(X, Y, 1, hyperparameters=hyperparameters, on_epoch=epochs.append)
        seen = replace(command, optimizer=optimizer, learning_rate=None).learning_rate
        assert {epochs[0].learning_rate, seen} == {rate}


def test_the_tutorial_preset_is_the_tutorials_configuration():
    assert config("--preset", "tutorial") == Config(
        preset="tutorial",
        hidden=(50,) * 6,
        activation="sigmoid",
        initialisation="tutorial",
        learning_rate=0.002,
        batch_size=10,
        epochs=1000,
        tutorial_loss=True,
    )


def test_the_presets_are_the_files_of_their_folder_and_all_are_installed():
    assert {f"{name}.toml" for name in PRESETS} == {path.name for path in PRESET_FOLDER.iterdir()}
    assert {"mnist", "tutorial", "simard", "best"} <= set(PRESETS)
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["distnet"]
    assert f"config/{PRESET_FOLDER.name}/*.toml" in packaged


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_says_what_it_is_and_names_no_other(preset):
    path = PRESET_FOLDER / f"{preset}.toml"
    assert path.read_text().startswith("# ")
    assert "preset" not in read_options(path)


def test_a_file_names_options_with_dashes_or_underscores(tmp_path):
    path = file(
        tmp_path,
        """
        # as a person writes it
        learning-rate = 1e-3
        batch_size = 32
        hidden = [300, 100]
        optimizer = "adam"
        betas = [0.8, 0.99]
        quiet = true
        checkpoint-dir = "there"
        checkpoint-every = "500 steps"
        resume = true
        """,
    )
    chosen = read_config(["--config", str(path)])
    assert chosen == replace(
        config("--arithmetic", "native"),
        learning_rate=0.001,
        batch_size=32,
        hidden=(300, 100),
        optimizer="adam",
        betas=(0.8, 0.99),
        quiet=True,
        checkpoint_dir=Path("there"),
        checkpoint_every=(500, "steps"),
        resume="",
    )


def test_typed_options_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = file(tmp_path, 'preset = "tutorial"\nepochs = 7\nbatch_size = 20')
    chosen = config("--epochs", "3", "--config", str(path))
    assert (chosen.preset, chosen.epochs, chosen.batch_size, chosen.learning_rate) == ("tutorial", 3, 20, 0.002)
    assert config("--config", str(path), "--preset", "mnist").learning_rate == config().learning_rate


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("--epoch", "--epochs"),
        ("--batch_size", "--batch-size"),
        ("--learning", "--learning-rate"),
        ("--cofnig=a", "--config"),
        ("--lr", "--learning-rate"),
        ("--lr=1", "--learning-rate"),
        ("--LR", "--learning-rate"),
        ("--batch", "--batch-size"),
        ("--bs", "--batch-size"),
        ("--hidden-size", "--hidden"),
        ("--hidden_layer_sizes", "--hidden"),
        ("--layers", "--hidden"),
        ("--num-epochs", "--epochs"),
        ("--max_iter", "--epochs"),
        ("--random-state", "--seed"),
        ("--wd", "--weight-decay"),
        ("--label", "--target"),
        ("--optim", "--optimizer"),
        ("--save", "--model"),
        ("--data", "--data-dir"),
        ("--drop", "--dropout"),
        ("--metrics-file", "--metrics"),
    ],
)
def test_an_unknown_option_proposes_the_nearest_one(typed, nearest):
    told = refusal(typed, "3")
    assert told == f"{typed} 3: there is no such option; did you mean {nearest}? See python -m distnet.train --help"


@pytest.mark.parametrize("typed", ["--xyzzy", "--l"])
def test_an_option_that_is_near_to_none_proposes_none(typed):
    assert refusal(typed) == f"{typed}: there is no such option; see python -m distnet.train --help"


def test_a_usual_name_is_known_for_an_option_that_there_is_alone():
    with pytest.raises(InputError, match="there is no such option; "):
        evaluate.build_parser().parse_args(["model.npz", "--lr", "3"])


def test_every_usual_name_leads_to_an_option_of_the_training():
    known = {option.removeprefix("--") for action in build_parser()._actions for option in action.option_strings}
    assert set(USUAL_NAMES.values()) <= known
    assert not USUAL_NAMES.keys() & known


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epoch = 3", "{}: epoch: there is no such option; did you mean epochs? See python -m distnet.train --help"),
        ("learning-rte = 3", "{}: learning-rte: there is no such option; did you mean learning_rate? "),
        ("[training]\nepochs = 3", "{}: training: there is no such option"),
        ('config = "a"', "{}: config: there is no such option"),
        ("batch-size = 0", "{}: batch-size: expected a positive integer, got '0'"),
        ("epochs = 3.0", "{}: epochs: expected a positive integer, got '3.0'"),
        ("epochs = true", "{}: epochs: expected numbers or strings, got True"),
        ("epochs = [3, 4]", "{}: epochs: expected 1 value, got [3, 4]"),
        ("epochs = 2026-11-22", "{}: epochs: expected numbers or strings, got datetime.date(2026, 11, 22)"),
        ("epochs = 0x" + "f" * 9000, "{}: epochs: "),
        ("epochs.a = 3", "{}: epochs: expected numbers or strings, got {{'a': 3}}"),
        ("learning_rate = nan", "{}: learning_rate: expected a finite positive number, got 'nan'"),
        ('hidden = [5, "x"]', "{}: hidden: expected a positive integer, got 'x'"),
        ("betas = [0.9]", "{}: betas: expected 2 values, got [0.9]"),
        (
            'activation = "swish"',
            "{}: activation: expected one of sigmoid, tanh, relu, leaky-relu, gelu, identity, got 'swish'",
        ),
        ('preset = "fast"', f"{{}}: preset: expected one of {', '.join(PRESETS)}, got 'fast'"),
        ('dataset = "cifar"', "{}: dataset: expected one of mnist, "),
        ('model = "a.h5"', "{}: model: expected a name that ends in .pkl or .npz, got 'a.h5'"),
        ('quiet = "yes"', "{}: quiet: expected true or false, got 'yes'"),
        (
            'checkpoint_dir = "a"\ncheckpoint_every = "often"',
            "{}: checkpoint_every: expected an interval such as 1 epoch, 500 steps or 60 s, got 'often'",
        ),
        (
            "checkpoint_every = []",
            "{}: checkpoint_every: expected an interval such as 1 epoch, 500 steps or 60 s, got ''",
        ),
        ("keep = 5", "{}: keep: there are no checkpoints; add --checkpoint-dir DIR"),
        ("momentum = 0.5", "{}: momentum: has no effect with --optimizer sgd; choose --optimizer momentum"),
        ("epochs = 3\nepochs = 4", "--config {}: Cannot overwrite a value (at "),
        ("batch-size = 3\nbatch_size = 4", "{}: batch_size: occurs twice; remove one"),
        ("epochs 3", "--config {}: Expected '=' after a key in a key/value pair (at "),
        ("a = " + "[" * 9000, "--config {}: "),
    ],
)
def test_an_error_in_a_file_names_file_key_and_value(tmp_path, text, told):
    path = file(tmp_path, text)
    assert refusal("--config", str(path)).startswith(told.format(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    assert refusal("--config", str(tmp_path)).startswith(f"--config {tmp_path}: can't be read (Is a directory)")
    path = tmp_path / "latin.toml"
    path.write_bytes(b'model = "\xe9.pkl"')
    assert refusal("--config", str(path)).startswith(
        f"--config {path}: 'utf-8' codec can't decode byte 0xe9 in position 9: "
    )


def test_what_a_file_says_for_another_optimizer_than_the_one_typed_is_left_out(tmp_path):
    path = file(tmp_path, 'optimizer = "nesterov"\nmomentum = 0.5')
    assert config("--config", str(path), "--optimizer", "adam") == replace(
        config("--arithmetic", "native"), optimizer="adam", learning_rate=LEARNING_RATES["adam"]
    )
    assert config("--config", str(path)).momentum == 0.5


def read_back(chosen, folder):
    return config("--config", str(file(folder, to_toml(chosen))))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--preset", "tutorial", "--epochs", "3"],
        ["--hidden"],
        ["--optimizer", "adamw", "--betas", "0.5", "0.25", "--epsilon", "1e-300", "--weight-decay", "1e22"],
        ["--checkpoint-dir", "a", "--resume", "--checkpoint-every", "60", "s", "--keep", "1"],
        ["--checkpoint-dir", "a", "--keep", "all"],
        ["--checkpoint-dir", "a", "--resume", "a/b.npz", "--clip-norm", "0.1"],
        ["--arithmetic", "native", "--shards", "8", "--stack", "2"],
        ["--arithmetic", "native", "--dtype", "float64", "--reduction", "allreduce"],
        ["--model", 'a "b"\\\n\t\x7fé.pkl', "--seed", str(2**63 - 1), "--quiet", "--tutorial-loss"],
        ["--dataset", "csv:a b.csv", "--target", "3", "--test-share", "0.1", "--raw-inputs"],
        ["--dataset", "csv:a", "--target", "3", "x", "--task", "regression", "--weight", "w", "--validation-data", "b"],
        ["--dataset", "parquet:a", "--class-weight", "balanced", "--split-column", "part", "--patience", "3"],
        ["--dataset", "csv:a.csv", "--preset", "mnist"],
        ["--dataset", "csv:a.csv", "--task", "regression"],
    ],
)
def test_the_written_configuration_is_read_back_to_the_same(tmp_path, arguments):
    assert read_back(config(*arguments), tmp_path) == config(*arguments)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(min_value=5e-324, allow_infinity=False))
@settings(derandomize=True, database=None, deadline=None, max_examples=100)
def test_any_text_and_any_number_are_read_back(tmp_path_factory, text, rate):
    chosen = replace(config(), dataset=f"csv:{text}.", target=(text,), learning_rate=rate)
    assert read_back(chosen, tmp_path_factory.getbasetemp()) == chosen


@pytest.mark.parametrize("order", [1, -1])
def test_typed_options_win_over_the_preset_wherever_they_stand(order):
    arguments = [["--preset", "tutorial"], ["--epochs", "7"], ["--hidden", "9", "8"]][::order]
    chosen = read_config(list(chain(*arguments)))
    assert (chosen.epochs, chosen.hidden, chosen.activation) == (7, (9, 8), "sigmoid")


def test_without_a_file_the_arithmetic_is_portable_and_a_file_that_names_none_means_native(tmp_path):
    """Files of distnet 0.1 name none."""
    for text, arithmetic, dtype in [
        ("epochs = 3", "native", "float32"),
        ('preset = "tutorial"', "native", "float32"),
        ('dtype = "float64"\nshards = 8', "native", "float64"),
        ('arithmetic = "portable"', "portable", "float64"),
        ('arithmetic = "portable"\ndtype = "float64"', "portable", "float64"),
    ]:
        chosen = config("--config", str(file(tmp_path, text)))
        assert (chosen.arithmetic, chosen.dtype) == (arithmetic, dtype), text
    typed = config("--config", str(file(tmp_path, "epochs = 3")), "--arithmetic", "portable")
    assert (typed.arithmetic, typed.dtype, typed.epochs) == ("portable", "float64", 3)
    for preset in PRESETS:
        assert (config("--preset", preset).arithmetic, config("--preset", preset).dtype) in [
            ("portable", "float64"),
            ("native", "float32"),
        ]
    assert (config().arithmetic, config().dtype) == ("portable", "float64")


NEEDS_NATIVE = {
    "shards": ("4", "portable arithmetic has the same bits without; use --arithmetic native"),
    "stack": ("2", "portable arithmetic has the same bits without; use --arithmetic native"),
    "dtype": ('"float32"', "portable arithmetic is float64; use --arithmetic native"),
}


@pytest.mark.parametrize("name", NEEDS_NATIVE)
def test_what_portable_arithmetic_does_without_is_refused_with_the_name_of_native(tmp_path, name):
    value, told = NEEDS_NATIVE[name]
    words = (f"--{name}", value.strip('"'))
    assert refusal(*words) == refusal(*words, "--arithmetic", "portable") == f"--{name}: {told}"
    path = file(tmp_path, f'arithmetic = "portable"\n{name} = {value}\n')
    assert refusal("--config", str(path)) == f"{path}: {name}: {told}"
    native = ("--arithmetic", "native")
    assert str(getattr(config(*words, *native), name)) == str(getattr(config("--config", str(path), *native), name))
    assert str(getattr(config(*words, *native), name)) == words[1]


def test_what_a_file_says_for_native_is_left_out_where_portable_is_typed(tmp_path):
    path = file(tmp_path, 'shards = 8\nstack = 2\ndtype = "float32"')
    chosen = config("--config", str(path), "--arithmetic", "portable")
    assert chosen == config()
    assert chosen.dtype == "float64"


NPZ, PARQUET = ("--dataset", "npz:a.npz"), ("--dataset", "parquet:a")


def test_a_typed_option_wins_even_where_it_is_the_general_default():
    assert config("--preset", "tutorial", "--batch-size", str(Config.batch_size)).batch_size == Config.batch_size


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--augment", "shift", "sigma=4"], "--augment: sigma has no effect without elastic"),
        (["--augment", "elastic", "sigma=0.01"], "--augment: expected scale below 100 and sigma from 0.5 to 100"),
        (["--augment", "scale=100"], "--augment: expected scale below 100"),
        (
            ["--augment", "blur"],
            "--augment: expected one of shift[=NUMBER], rotate[=NUMBER], scale[=NUMBER], elastic[=NUMBER], sigma",
        ),
        (["--augment", "shift=-1"], "--augment: expected a finite non-negative number, got '-1'"),
        (["--hidden", "--dropout", "0.5"], "--dropout: there is no hidden layer; add one with --hidden K"),
        (["--patience", "3"], "--patience: there is no validation set; add --validation K"),
        (["--task", "regression"], "--task: has no effect with --dataset mnist; choose --dataset csv:FILE or"),
        (
            ["--validation-data", "a"],
            "--validation-data: has no effect with --dataset mnist; choose --dataset csv:FILE",
        ),
        ([*NPZ, "--weight", "w"], "--weight: has no effect with --dataset npz:a.npz; choose --dataset csv:FILE or"),
        (
            [*NPZ, "--split-column", "w"],
            "--split-column: has no effect with --dataset npz:a.npz; choose --dataset csv:FILE",
        ),
        ([*PARQUET, "--header", "yes"], "--header: has no effect with --dataset parquet:a; choose --dataset csv:FILE"),
        ([*PARQUET, "--task", "cluster"], "--task: expected one of classification, regression, multilabel, got"),
        ([*NPZ, "--task", "regression", "--label-smoothing", "0"], "--label-smoothing: the task is regression; leave"),
        ([*NPZ, "--task", "multilabel", "--tutorial-loss"], "--tutorial-loss: the task is multilabel; leave it out"),
        (
            [*NPZ, "--validation-data", "b.npz", "--validation", "5"],
            "--validation: --validation-data names the validation set; leave one of the two out",
        ),
        *(
            (
                [*PARQUET, "--split-column", "part", option, value],
                f"{option}: --split-column part names the rows of each set; leave it out",
            )
            for option, value in (
                ("--validation", "5"),
                ("--validation-data", "b"),
                ("--test-share", "0.5"),
                ("--split-seed", "3"),
            )
        ),
        (
            ["--schedule", "cosine", "--decay", "0.5"],
            "--decay: has no effect with --schedule cosine; choose --schedule step",
        ),
        (
            ["--dataset", "csv:a.csv", "--train-samples", "5"],
            "--train-samples: --dataset csv:a.csv names its file; leave it out",
        ),
    ],
)
def test_what_would_do_nothing_or_harm_is_refused(arguments, told):
    assert refusal(*arguments).startswith(told)


def test_strengths_are_kept_to_the_last_digit():
    assert config("--augment", "scale=99.9999999,shift").augment == ("scale=99.9999999", "shift=1")


@pytest.mark.parametrize("words", [["256", "128"], ["256,128"], ["256,", "128"], ["256,128,"]])
def test_hidden_layers_are_separated_by_blanks_or_commas(words, tmp_path):
    assert config("--hidden", *words).hidden == (256, 128)
    path = tmp_path / "run.toml"
    path.write_text(f"hidden = {words}")
    assert config("--config", str(path)).hidden == (256, 128)
    assert sum(plan.build_parser().parse_args(["--hidden", *words]).hidden, ()) == (256, 128)


def test_hidden_without_numbers_is_no_hidden_layer():
    assert config("--hidden").hidden == ()


def test_numbers_are_read_as_people_write_them():
    chosen = config("--learning-rate", "1e-3", "--seed", "007", "--hidden", "1_000")
    assert (chosen.learning_rate, chosen.seed, chosen.hidden) == (0.001, 7, (1000,))


@pytest.mark.parametrize("each", fields(Config), ids=lambda each: each.name)
def test_every_option_says_its_group_its_meaning_and_its_default(each):
    help_text, flag = helped(), each.metadata.get("action") == "store_true"
    option = "--" + each.name.replace("_", "-")
    entry = help_text[help_text.index(f"{option} ") :].split(" --")[0]
    meaning = " ".join(each.metadata["help"].split())
    assert meaning in entry
    assert flag or "(default: " in entry
    assert f"{each.metadata['group']}: --" in help_text
    default = getattr(config(), each.name)  # that of the default preset
    if each.name == "preset":
        assert "(default: mnist; table for csv:FILE, npz:FILE or parquet:FILE)" in entry
    elif each.name == "dtype":
        assert "(default: float64 in portable, float32 in native)" in entry
    elif isinstance(default, int | float | str) and not flag:
        assert f"(default: {default})" in entry


@pytest.mark.parametrize("arguments", [["--help"], ["--epochs", "3", "--help"], ["--help", "--epochs", "none"]])
def test_help_is_no_configuration(arguments):
    with pytest.raises(HelpWanted, match=r"^usage: .*\n"):
        read_config(arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--batch-size", "0"], "--batch-size: expected a positive integer, got '0'"),
        (["--learning-rate", "nan"], "--learning-rate: expected a finite positive number, got 'nan'"),
        (["--hidden", "5", "x"], "--hidden: expected a positive integer, got 'x'"),
        (["--hidden", "5,,6"], "--hidden: expected a positive integer, got ''"),
        (["--hidden", ","], "--hidden: expected a positive integer, got ''"),
        (["--seed", str(2**63)], f"--seed: expected a non-negative integer, got '{2**63}'"),
        (["--model", "model.h5"], "--model: expected a name that ends in .pkl or .npz, got 'model.h5'"),
        (
            ["--activation", "swish"],
            "--activation: expected one of sigmoid, tanh, relu, leaky-relu, gelu, identity, got 'swish'",
        ),
        (["--momentum", "0.5"], "--momentum: has no effect with --optimizer sgd; choose --optimizer momentum"),
        (["--target", "3"], "--target: has no effect with --dataset mnist; choose --dataset csv:FILE"),
        (["--test-share", "0.3"], "--test-share: has no effect with --dataset mnist; choose --dataset csv:FILE or"),
        (["--quiet=yes"], "--quiet: ignored explicit argument 'yes'"),
    ],
)
def test_an_error_names_the_option_the_value_and_what_would_be_right(arguments, told):
    assert refusal(*arguments).startswith(told)


def test_a_misspelt_or_shortened_option_is_not_guessed():
    for option in ("--epoch", "--batch_size", "--learning", "--shard", "-e"):
        assert refusal(option, "3").startswith(f"{option} 3: there is no such option")


def test_the_default_folder_is_the_environments_or_data():
    for value, folder in [("/somewhere/else", "/somewhere/else"), ("", "data"), (None, "data")]:
        env = {name: text for name, text in os.environ.items() if name != "DISTNET_DATA"}
        env |= {"PYTHONPATH": str(ROOT)} | ({} if value is None else {"DISTNET_DATA": value})
        code = "from distnet.datasets.options import DATA_FOLDER; print(DATA_FOLDER)"
        printed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert printed.stdout == f"{folder}\n"


def test_a_configuration_can_be_told_in_json():
    told = config("--model", "a.pkl", "--hidden", "3").to_dict()
    lists = {name: list(value) for name, value in told.items() if isinstance(value, tuple)}
    assert json.loads(json.dumps(told)) == told | lists
    assert told["model"] == "a.pkl"


def test_a_configuration_does_not_change():
    with pytest.raises(AttributeError):
        config().epochs = 3


def test_importing_options_does_not_load_mpi():
    code = "import sys, distnet.config.options; print('mpi4py' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_every_path_may_begin_with_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {"dataset": "csv:~/a.csv", "model": "~/a.npz", "report": "~/a.html", "resume": "~/c"}
    given |= dict.fromkeys(("metrics", "tensorboard", "timeline", "log_dir", "checkpoint_dir"), "~/a")
    words = [word for name, value in given.items() for word in ("--" + name.replace("_", "-"), value)]
    (tmp_path / "options.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in given.items()))
    for arguments in (words, ["--config", "~/options.toml"]):
        config = read_config(arguments)
        for name, value in given.items():
            assert str(getattr(config, name)) == value.replace("~", str(tmp_path)), name
    commands = runpy.run_path(str(ROOT / "docs" / "options.py"))
    for name in commands["commands"]():
        for action in commands["parser_of"](name)._actions:
            assert action.type is not Path, (name, action.dest)
