"""`Classifier` and `Regressor` are scikit-learn estimators, and train the same parameters on all ranks."""

import copy
import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from inspect import signature
from unittest import SkipTest

import numpy as np
import pytest
from helpers import ROOT, mpirun
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import distnet
from distnet import Classifier, NeuralNetwork, Regressor
from distnet.nn.optimizers import Hyperparameters
from distnet.nn.parameters import INITIALISATIONS
from distnet.runtime.errors import InputError
from distnet.training.trainer import Trainer

X, Y = load_iris(return_X_y=True)
X = (X - X.mean(0)) / X.std(0)
NAMES = np.array(["setosa", "versicolor", "virginica"])[Y]
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
QUICK = {"hidden_layer_sizes": (8,), "max_iter": 5, "batch_size": 16, "random_state": 0}


def name_of(value):
    return value.func.__name__ if hasattr(value, "func") else value.__name__


CHECKS = [(each, check) for each in (Classifier, Regressor) for _, check in estimator_checks_generator(each())]
# That a weight of two is a repeated row, to seven digits. Portable arithmetic rounds to grids that follow the weighted
# deltas and the rows.
OF_WEIGHTS = [(each, check) for each, check in CHECKS if "sample_weight_equivalence" in name_of(check)]


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=name_of)
def test_scikit_learns_checks_pass_in_native_arithmetic(estimator, check):
    with suppress(SkipTest):  # those of pandas and of other libraries' arrays, where these aren't installed
        check(estimator(arithmetic="native"))


@pytest.mark.parametrize(("estimator", "check"), [each for each in CHECKS if each not in OF_WEIGHTS], ids=name_of)
def test_scikit_learns_other_checks_pass_in_portable_arithmetic(estimator, check):
    with suppress(SkipTest):
        check(estimator(arithmetic="portable"))


@pytest.mark.parametrize(("estimator", "check"), OF_WEIGHTS, ids=name_of)
def test_weights_equal_repeated_rows_in_portable_arithmetic_only_to_fewer_digits(estimator, check):
    with pytest.raises(AssertionError, match="Not equal to tolerance rtol=1e-07"):
        check(estimator(arithmetic="portable"))


OWN = {"arithmetic", "callbacks", "dropout", "initialisation", "shards"}


@pytest.mark.parametrize(
    ("ours", "theirs", "own"),
    [
        (Classifier, MLPClassifier, OWN | {"class_weight", "label_smoothing"}),
        (Regressor, MLPRegressor, OWN),
    ],
)
def test_they_have_all_parameters_of_scikit_learns_with_the_same_defaults_and_some_of_their_own(ours, theirs, own):
    ours, theirs = (signature(each).parameters for each in (ours, theirs))
    shared = {name: (each.default, each.kind) for name, each in ours.items() if name in theirs}
    assert list(shared.items()) == [(name, (each.default, each.kind)) for name, each in theirs.items()]
    assert ours.keys() - theirs.keys() == own


def test_it_learns_as_well_as_mlpclassifier():
    options = {"hidden_layer_sizes": (16,), "learning_rate_init": 0.01, "max_iter": 60, "batch_size": 16}
    for solver in ("adam", "sgd"):
        ours = Classifier(**options, solver=solver, random_state=0).fit(X, NAMES)
        assert ours.score(X, NAMES) > 0.95
        assert set(ours.predict(X)) == set(NAMES)


@pytest.mark.parametrize(("arithmetic", "shards"), [("native", 4), ("portable", None)])
def test_plain_sgd_gives_the_bits_of_neural_network(arithmetic, shards):
    ours = Classifier((7, 5), "tanh", solver="sgd", momentum=0, alpha=0, batch_size=16, max_iter=3, random_state=4)
    ours.set_params(learning_rate_init=0.1, arithmetic=arithmetic).fit(X, NAMES)
    network = NeuralNetwork([4, 7, 5, 3], "tanh", 0.1, 4, np.float64, arithmetic=arithmetic)
    network.train(X, np.eye(3)[Y], epochs=3, batch_size=16, shards=shards)
    assert ours.network_.parameters.tobytes() == network.parameters.tobytes()
    assert ours.predict_proba(X).tobytes() == network.forward(X).tobytes()


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_full_batch_of_sgd_is_mlpclassifiers(nesterov):
    options = {"solver": "sgd", "batch_size": 150, "learning_rate_init": 0.1, "alpha": 3.0, "max_iter": 1}
    options |= {"hidden_layer_sizes": (6,), "activation": "logistic", "nesterovs_momentum": nesterov}
    theirs = MLPClassifier(**options, shuffle=False, warm_start=True)
    theirs.partial_fit(X, Y, classes=[0, 1, 2])
    network = NeuralNetwork([4, 6, 3], "sigmoid", 0.1, 0, np.float64, arithmetic="native")
    for ours, other in zip(network.weights + network.biases, theirs.coefs_ + theirs.intercepts_, strict=True):
        ours[:] = other
    theirs._optimizer.velocities = [0 * each for each in theirs._optimizer.velocities]
    theirs.partial_fit(X, Y)
    rule = "nesterov" if nesterov else "momentum"
    network.train(X, np.eye(3)[Y], 1, 150, hyperparameters=Hyperparameters(rule, 0.9, weight_decay=3.0 / 150))
    for ours, other in zip(network.weights + network.biases, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-10, atol=1e-13)


def test_alpha_pulls_as_it_does_in_mlpclassifier_over_the_rows_of_a_mini_batch():
    ours = Classifier((6,), solver="sgd", alpha=3.0, batch_size=50, max_iter=2, random_state=0).fit(X, Y)
    network = NeuralNetwork([4, 6, 3], "relu", 0.001, dtype=np.float64, arithmetic="native")
    hyperparameters = Hyperparameters("nesterov", 0.9, penalty=3.0)
    network.train(X, np.eye(3)[Y], 2, 50, hyperparameters=hyperparameters, shards=4)
    assert ours.network_.parameters.tobytes() == network.parameters.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_a_portable_classifier_has_the_same_bits_for_equal_numbers_of_any_dtype(dtype):
    rows = np.round(X * 8)  # which float32 and integers hold, too
    fitted = Classifier(**QUICK, arithmetic="portable").fit(rows.astype(dtype), NAMES)
    usual = Classifier(**QUICK, arithmetic="portable").fit(rows, NAMES)
    assert (fitted.network_.arithmetic, fitted.network_.parameters.dtype) == ("portable", np.float64)
    assert fitted.network_.parameters.tobytes() == usual.network_.parameters.tobytes()
    alone = [fitted.predict_proba(row[None].astype(dtype)) for row in rows]
    assert np.concatenate(alone).tobytes() == usual.predict_proba(rows).tobytes()


def test_a_native_classifier_has_the_dtype_of_its_rows():
    kinds = {dtype: Classifier(**QUICK).fit(X.astype(dtype), NAMES) for dtype in (np.float32, np.float64)}
    assert {dtype: each.network_.parameters.dtype for dtype, each in kinds.items()} == {each: each for each in kinds}
    assert {each.network_.arithmetic for each in kinds.values()} == {"native"}


def test_a_portable_classifier_refuses_shards_and_names_native():
    with pytest.raises(InputError, match=r"^shards: portable arithmetic has the same bits without.*native"):
        Classifier(**QUICK, arithmetic="portable", shards=4).fit(X, NAMES)


def test_a_native_classifier_has_four_shards():
    usual, four, two = (Classifier(**QUICK, shards=shards).fit(X, NAMES) for shards in (None, 4, 2))
    assert usual.network_.parameters.tobytes() == four.network_.parameters.tobytes()
    assert usual.network_.parameters.tobytes() != two.network_.parameters.tobytes()


def test_it_works_in_a_pipeline_a_search_and_cross_validation():
    pipeline = make_pipeline(StandardScaler(), Classifier(**QUICK, learning_rate_init=0.05))
    assert cross_val_score(pipeline, X, NAMES, cv=3).mean() > 0.8
    search = GridSearchCV(pipeline, {"classifier__learning_rate_init": [0.001, 0.05]}, cv=3).fit(X, NAMES)
    assert search.best_params_ == {"classifier__learning_rate_init": 0.05}


def test_workers_of_a_search_train_alone():
    search = GridSearchCV(Classifier(**QUICK), {"alpha": [0, 1]}, cv=2, n_jobs=2)
    alone = GridSearchCV(Classifier(**QUICK), {"alpha": [0, 1]}, cv=2)
    assert list(search.fit(X, Y).cv_results_["mean_test_score"]) == list(alone.fit(X, Y).cv_results_["mean_test_score"])


def test_its_attributes_are_those_of_the_network():
    fitted = Classifier(**QUICK).fit(X, NAMES)
    assert fitted.network_.sizes == (4, 8, 3)
    assert (fitted.n_iter_, len(fitted.loss_curve_), fitted.n_features_in_) == (5, 5, 4)
    assert fitted.network_.about == {"classes": ["setosa", "versicolor", "virginica"]}


def test_a_fit_leaves_nothing_of_an_earlier_one():
    classifier = Classifier(**QUICK, early_stopping=True).fit(X, Y)
    assert len(classifier.validation_scores_) == 5
    classifier.set_params(early_stopping=False).fit(X, Y)
    assert classifier.validation_scores_ is None
    assert len(classifier.loss_curve_) == 5
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="learning_rate_init"):
        classifier.set_params(solver="sgd", learning_rate_init=1e300).fit(X, Y)
    assert not hasattr(classifier, "network_")


def test_initial_weights_are_of_the_kind_that_is_named():
    kinds = [Classifier(**QUICK | {"max_iter": 1}, initialisation=kind).fit(X, Y) for kind in INITIALISATIONS]
    assert len({each.network_.parameters.tobytes() for each in kinds}) == len(INITIALISATIONS)


def test_training_ends_where_the_loss_falls_no_more():
    fitted = Classifier(**QUICK | {"max_iter": 100}, tol=10.0, n_iter_no_change=3).fit(X, Y)
    assert fitted.n_iter_ == 5  # the first is always better than none


def test_early_stopping_holds_out_every_class_and_refuses_a_class_of_one_row():
    X, y = np.arange(40.0)[:, None], np.array(["rare"] * 2 + ["usual"] * 38)
    for random_state in range(5):
        Classifier(**QUICK | {"random_state": random_state}, early_stopping=True).fit(X, y)
    with pytest.raises(ValueError, match="early_stopping: class 'rare' has one sample"):
        Classifier(**QUICK, early_stopping=True).fit(X[1:], y[1:])


def test_early_stopping_keeps_the_epoch_that_was_best_on_the_rows_held_out():
    options = QUICK | {
        "learning_rate_init": 0.03,
        "early_stopping": True,
        "validation_fraction": 0.3,
        "n_iter_no_change": 50,
    }
    scores = Classifier(**options | {"max_iter": 12}).fit(X, Y).validation_scores_
    best = int(np.argmax(scores)) + 1
    assert 1 < best < 12
    kept = Classifier(**options | {"max_iter": 12}).fit(X, Y)
    until = Classifier(**options | {"max_iter": best}).fit(X, Y)
    assert kept.network_.parameters.tobytes() == until.network_.parameters.tobytes()


@pytest.mark.parametrize("early_stopping", [False, True])
def test_after_ctrl_c_it_warns_and_is_fitted_so_far(early_stopping, monkeypatch):
    options = QUICK | {"max_iter": 9, "early_stopping": early_stopping}
    expected = Classifier(**options | {"max_iter": 2}).fit(X, Y)
    epoch = Trainer.epoch

    def interrupted(trainer, *arguments):
        if trainer.epochs_done == 2:
            signal.raise_signal(signal.SIGINT)
        return epoch(trainer, *arguments)

    monkeypatch.setattr(Trainer, "epoch", interrupted)
    with pytest.warns(UserWarning, match="training interrupted in epoch 3, after step 0 of"):
        fitted = Classifier(**options).fit(X, Y)
    assert fitted.n_iter_ == 2
    assert fitted.predict_proba(X).tobytes() == expected.predict_proba(X).tobytes()


def test_the_precision_is_that_of_the_data():
    assert Classifier(**QUICK).fit(X.astype("float32"), Y).predict_proba(X).dtype == np.float32
    assert Classifier(**QUICK).fit(X, Y).predict_proba(X).dtype == np.float64


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_of_a_network_has_views_of_its_own(copied):
    network = NeuralNetwork([3, 4, 2])
    other = copied(network)
    other.weights[0][:] = 1
    other.biases[1][:] = 2
    assert np.count_nonzero(other.parameters == 1) == 12
    assert np.count_nonzero(other.parameters == 2) == 2
    assert not np.shares_memory(network.parameters, other.parameters)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("activation", "step"),
        ("alpha", -1),
        ("alpha", "0.1"),
        ("batch_size", 0),
        ("batch_size", "32"),
        ("beta_1", 1.0),
        ("callbacks", 3),
        ("callbacks", [3]),
        ("class_weight", "balance"),
        ("dropout", "much"),
        ("hidden_layer_sizes", (8, 0)),
        ("learning_rate", "step"),
        ("initialisation", "zeros"),
        ("learning_rate_init", 0),
        ("learning_rate_init", "0.1"),
        ("random_state", -1),
        ("tol", None),
        ("early_stopping", "yes"),
        ("hidden_layer_sizes", "8"),
        ("hidden_layer_sizes", None),
        ("max_iter", 2.5),
        ("n_iter_no_change", 0),
        ("shards", 0),
        ("arithmetic", "exact"),
        ("solver", "lbfgs"),
        ("validation_fraction", 1),
    ],
)
def test_a_parameter_that_cannot_be_is_named_with_its_value(name, value):
    with pytest.raises(InputError) as refused:
        Classifier(**{name: value}).fit(X, Y)
    message = str(refused.value)
    assert message.startswith(f"{name}: ")
    assert str(value[1] if isinstance(value, tuple) else value) in message
    assert "\n" not in message


@pytest.mark.parametrize("wrong", [X, (X,), [X, Y, Y]])
def test_a_validation_set_is_a_pair(wrong):
    with pytest.raises(InputError, match=r"^validation_data: expected a pair \(X, y\)"):
        Classifier().fit(X, Y, validation_data=wrong)


def test_a_rate_that_is_too_large_is_told_instead_of_a_model_of_nan():
    with (
        np.errstate(all="ignore"),
        pytest.raises(InputError, match=r"learning_rate_init: .*, with 1e\+300; use a smaller one"),
    ):
        Classifier((3,), solver="sgd", learning_rate_init=1e300, max_iter=3, random_state=0).fit(X, Y)


@pytest.fixture
def spoiled(monkeypatch):
    """Make a parameter NaN in the epoch with this number."""
    step, spoiled = Trainer.step, []

    def spoil(trainer, samples, first):
        step(trainer, samples, first)
        if trainer.epochs_done + 1 in spoiled:
            trainer.exchange.parameters[0] = np.nan
            trainer.refresh()

    monkeypatch.setattr(Trainer, "step", spoil)
    return spoiled.append


def test_a_loss_that_is_nan_ends_early_stopping_with_the_best_epoch_before(spoiled):
    options = QUICK | {"early_stopping": True, "validation_fraction": 0.2}
    before = Classifier(**options | {"max_iter": 2}).fit(X, NAMES)
    spoiled(3)
    with pytest.warns(UserWarning, match="training stopped: the loss is NaN in epoch 3; the best epoch before"):
        fitted = Classifier(**options | {"max_iter": 9}).fit(X, NAMES)
    assert fitted.n_iter_ == 3
    assert np.isfinite(fitted.loss_curve_[:2]).all()
    assert fitted.network_.parameters.tobytes() == before.network_.parameters.tobytes()


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_loss_that_is_nan_with_nothing_to_go_back_to_is_a_value_error(spoiled, early_stopping):
    spoiled(1)
    classifier = Classifier(**QUICK, early_stopping=early_stopping)
    with pytest.raises(
        ValueError, match=r"learning_rate_init: the loss is NaN in epoch 1, with 0\.001; use a smaller one"
    ):
        classifier.fit(X, NAMES)
    assert not hasattr(classifier, "network_")


def test_a_network_whose_loss_is_nan_is_as_it_was_before(spoiled):
    network = NeuralNetwork((4, 3, 3))
    before = network.parameters.tobytes()
    epochs = []
    spoiled(2)
    with pytest.raises(ValueError, match=r"learning_rate: the loss is NaN in epoch 2, with 0\.1; use a smaller one"):
        network.train(X, np.eye(3)[Y], epochs=5, on_epoch=lambda epoch: epochs.append(epoch.number))
    assert epochs == [1, 2]
    assert network.parameters.tobytes() == before


def test_without_scikit_learn_distnet_works_and_classifier_says_what_it_needs():
    code = """if True:
        import sys
        sys.modules["sklearn"] = sys.modules["sklearn.base"] = None
        import distnet
        distnet.NeuralNetwork([2, 2])
        try:
            distnet.Classifier
        except ImportError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("distnet's estimators need scikit-learn 1.6 or newer (")
    assert run.stdout.endswith("pip install scikit-learn\n")
    assert run.stdout.count("\n") == 1


def test_importing_everything_from_distnet_needs_no_scikit_learn():
    assert not {"Classifier", "Regressor"} & {*distnet.__all__}


SEARCH = """
import sys
import numpy as np
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from distnet import Classifier
from distnet.parallel.launched import launched_world

X, y = load_iris(return_X_y=True)
rank = launched_world().rank
{change}
classifier = Classifier((8,), batch_size=16, max_iter=3, random_state={random_state}, early_stopping=True)
search = GridSearchCV(classifier, {{"solver": ["sgd", "adam"]}}, cv=3, n_jobs={n_jobs}).fit(X, y)
scores = cross_val_score(make_pipeline(StandardScaler(), classifier), X, y, cv=3)
bits = hash(search.best_estimator_.network_.parameters.tobytes())
sys.stdout.write(f"{{search.best_params_}} {{bits}} {{scores.tolist()}}\\n")
"""


@cache
def search(ranks, random_state="0", n_jobs="None", change=""):
    """Run a search and a cross-validation; returns the completed process, which printed one line per rank."""
    code = SEARCH.format(random_state=random_state, n_jobs=n_jobs, change=change)
    launcher = [] if ranks is None else [mpirun(), "-n", str(ranks)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    command = [*launcher, sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_search_and_a_cross_validation_under_mpirun_end_alike_on_every_rank(ranks):
    alone, together = search(None), search(ranks)
    assert alone.returncode == together.returncode == 0, together.stderr
    assert together.stdout == alone.stdout * ranks


def test_without_a_random_state_the_ranks_agree_on_one():
    first, second = search(2, "None").stdout.splitlines()
    assert first == second


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"change": "X = X + rank"}, "fit: X, y or the parameters differ between ranks"),
        ({"change": "X = X[rank:]; y = y[rank:]"}, "fit: X, y or the parameters differ between ranks"),
        ({"change": "X[0, 0] = [0, np.nan][rank]"}, "fit: X, y or the parameters differ between ranks"),
        ({"n_jobs": "2"}, "n_jobs: under mpirun"),
    ],
)
def test_ranks_that_cannot_train_together_end_instead_of_waiting(how, told):
    ended = search(2, **how)
    assert ended.returncode
    assert told in ended.stderr
