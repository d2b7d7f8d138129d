"""Options: presets, defaults, checks, and what each one says of itself."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from itertools import chain

import pytest
from conftest import ROOT

from distnet.config import PRESETS, Config, parser, read_config
from distnet.errors import InputError


def config(*arguments):
    return read_config(arguments)[0]


def refusal(*arguments):
    with pytest.raises(InputError) as refused:
        read_config(arguments)
    assert refused.value.on_every_rank
    return str(refused.value)


def helped():
    """What --help prints, with single blanks."""
    return " ".join(parser().format_help().split())


def test_nothing_typed_gives_the_defaults():
    assert read_config([]) == (Config(), frozenset())


def test_the_presets_are_the_ones_that_the_help_offers():
    assert set(PRESETS) == {"mnist", "tutorial"}
    assert config("--preset", "mnist") == Config()
    tutorial = config("--preset", "tutorial")
    assert tutorial.hidden == (50, 50, 50, 50, 50, 50)
    assert (tutorial.activation, tutorial.learning_rate, tutorial.batch_size) == ("sigmoid", 0.002, 10)
    assert (tutorial.epochs, tutorial.tutorial_loss, tutorial.preset) == (1000, True, "tutorial")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_option_of_a_preset_is_a_field_of_the_configuration(preset):
    assert PRESETS[preset].keys() <= {each.name for each in fields(Config)}


@pytest.mark.parametrize("order", [1, -1])
def test_typed_options_win_over_the_preset_wherever_they_stand(order):
    arguments = [["--preset", "tutorial"], ["--epochs", "7"], ["--hidden", "9", "8"]][::order]
    chosen, names = read_config(list(chain(*arguments)))
    assert (chosen.epochs, chosen.hidden, chosen.activation) == (7, (9, 8), "sigmoid")
    assert names == {"preset", "epochs", "hidden"}


def test_a_typed_option_wins_even_where_it_is_the_general_default():
    assert config("--preset", "tutorial", "--batch-size", str(Config.batch_size)).batch_size == Config.batch_size


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
    if isinstance(each.default, int | float | str) and not flag:
        assert f"(default: {each.default})" in entry


def test_help_is_no_configuration():
    assert read_config(["--help"]) is None
    assert read_config(["--epochs", "3", "--help"]) is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--batch-size", "0"], "--batch-size: '0' is no whole number from 1 up"),
        (["--learning-rate", "nan"], "--learning-rate: 'nan' is no finite number above 0"),
        (["--hidden", "5", "x"], "--hidden: 'x' is no whole number from 1 up"),
        (["--seed", str(2**63)], f"--seed: '{2**63}' is no whole number from 0 up"),
        (["--model", "model.h5"], "--model: 'model.h5' doesn't end in .pkl or .npz"),
        (["--activation", "gelu"], "--activation: invalid choice: 'gelu' (choose from "),
        (["--epoch", "3"], "--epoch 3: there is no such option; python -m distnet.train --help lists all"),
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
        code = "from distnet.config import read_config; print(read_config([])[0].data_dir)"
        printed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert printed.stdout == f"{folder}\n"


def test_a_configuration_can_be_told_in_json():
    told = config("--model", "a.pkl", "--hidden", "3").described()
    lists = {name: list(value) for name, value in told.items() if isinstance(value, tuple)}
    assert json.loads(json.dumps(told)) == told | lists
    assert told["model"] == "a.pkl"


def test_a_configuration_does_not_change():
    with pytest.raises(AttributeError):
        config().epochs = 3


def test_importing_options_imports_neither_numpy_nor_mpi():
    code = "import sys, distnet.config; print('numpy' in sys.modules, 'mpi4py' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "False False\n"
