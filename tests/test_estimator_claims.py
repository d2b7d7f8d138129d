"""Parameters, methods and attributes of `Classifier` and `Regressor` do what those of scikit-learn's networks do."""

import pickle
import subprocess
import sys
import warnings
from functools import cache

import numpy as np
import pytest
from helpers import ROOT, mpirun
from scipy.sparse import coo_array, csc_matrix, csr_array, csr_matrix
from sklearn.datasets import load_iris, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.class_weight import compute_sample_weight

from distnet import Classifier, Regressor
from distnet.datasets.sparse import SparseRows
from distnet.estimators import base
from distnet.runtime.errors import InputError
from distnet.training.callbacks import Callback

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = (X - X.mean(0)) / X.std(0)
WEIGHTS = np.random.default_rng(0).uniform(0.1, 3, len(X))
NUMBERS = make_regression(n_samples=150, n_features=4, n_targets=2, random_state=0)[1] / 100
LABELS = make_multilabel_classification(n_samples=150, n_features=4, random_state=0, return_indicator=True)[1]
# Per task: the two estimators, and y.
TASKS = {
    "classes": (Classifier, MLPClassifier, Y),
    "two classes": (Classifier, MLPClassifier, np.array(["no", "yes"])[Y // 2]),
    "labels": (Classifier, MLPClassifier, LABELS),
    "number": (Regressor, MLPRegressor, NUMBERS[:, 0]),
    "numbers": (Regressor, MLPRegressor, NUMBERS),
}
QUICK = {"hidden_layer_sizes": (8,), "max_iter": 5, "batch_size": 32, "random_state": 0}
PLAIN = {"solver": "sgd", "momentum": 0}


def parameters(estimator):
    return estimator.network_.parameters.tobytes()


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "options",
    [
        {"solver": "adam", "alpha": 1.0, "epsilon": 1e-14},  # ours is added after the bias correction, as in the paper
        {"solver": "sgd", "alpha": 1.0, "learning_rate_init": 0.02},
        {"solver": "sgd", "nesterovs_momentum": False, "activation": "tanh", "learning_rate_init": 0.02},
        {**PLAIN, "learning_rate": "invscaling", "power_t": 0.1, "activation": "logistic", "learning_rate_init": 0.5},
        {**PLAIN, "learning_rate": "adaptive", "tol": 0.01, "n_iter_no_change": 1, "activation": "identity"},
    ],
    ids=["adam", "nesterov", "momentum", "invscaling", "adaptive"],
)
def test_from_the_same_weights_in_the_same_order_they_compute_what_scikit_learn_computes(task, options, weights):
    ours, theirs, y = TASKS[task]
    options = QUICK | {"max_iter": 12, "n_iter_no_change": 100} | options | {"shuffle": False, "warm_start": True}
    theirs, ours = theirs(**options).set_params(max_iter=1).fit(X, y, weights), ours(**options)
    ours.coefs_, ours.intercepts_ = ([each.copy() for each in some] for some in (theirs.coefs_, theirs.intercepts_))
    ours.t_ = theirs.t_
    theirs.set_params(max_iter=12).fit(X, y, weights)
    ours.fit(X, y, sample_weight=weights)
    for our, their in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-7, atol=1e-10)
    ask = "predict_proba" if hasattr(ours, "predict_proba") else "predict"
    np.testing.assert_allclose(getattr(ours, ask)(X), getattr(theirs, ask)(X), rtol=1e-6, atol=1e-9)
    assert ours.score(X, y, weights) == pytest.approx(theirs.score(X, y, weights))
    assert (ours.n_iter_, ours.n_layers_, ours.n_outputs_) == (theirs.n_iter_, theirs.n_layers_, theirs.n_outputs_)
    assert ours.out_activation_ == theirs.out_activation_
    if weights is None:
        # The penalty is that of the epoch's last weights.
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_[1:], rtol=0.01)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_a_fit_leaves_the_attributes_that_scikit_learns_leaves(task, early_stopping):
    ours, theirs, y = TASKS[task]
    fitted, their = (each(**QUICK, early_stopping=early_stopping).fit(X, y) for each in (ours, theirs))
    names = {name for name in vars(their) if name.endswith("_") and not name.startswith("_")}
    assert {name for name in vars(fitted) if name.endswith("_")} == names
    for name in names - {"coefs_", "intercepts_"}:
        ours, theirs = getattr(fitted, name), getattr(their, name)
        assert isinstance(theirs, type(ours)), name
        assert np.shape(ours) == np.shape(theirs), name
    assert [each.shape for each in fitted.coefs_] == [each.shape for each in their.coefs_]
    assert fitted.t_ == their.t_


@pytest.mark.parametrize("solver", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("task", TASKS)
def test_passes_one_by_one_through_a_file_each_give_the_bits_of_a_fit(task, solver):
    ours, _, y = TASKS[task]
    options = QUICK | {"solver": solver, "n_iter_no_change": 100}
    classes = {} if ours is Regressor else {"classes": np.unique(y)}
    step = ours(**options)
    for _ in range(5):
        step = pickle.loads(pickle.dumps(step.partial_fit(X, y, **classes)))
    fitted = ours(**options).fit(X, y)
    assert parameters(step) == parameters(fitted)
    assert (step.loss_curve_, step.t_, step.n_iter_) == (fitted.loss_curve_, fitted.t_, 1)
    # A fit's state continues, too.
    assert parameters(step.partial_fit(X, y)) == parameters(fitted.partial_fit(X, y))


def test_a_warm_start_begins_with_the_weights_of_the_last_fit_and_a_cold_one_anew():
    once = Classifier(**QUICK).fit(X, Y)
    cold, warm = (Classifier(**QUICK, warm_start=warm).fit(X, Y).fit(X, Y) for warm in (False, True))
    assert parameters(cold) == parameters(once)
    assert warm.loss_curve_[:5] == once.loss_curve_
    assert len(warm.loss_curve_) == 10
    assert warm.loss_curve_[5] < once.loss_
    with pytest.raises(InputError, match=r"coefs_: expected shape \(4, 9\), got \(4, 8\)"):
        warm.set_params(hidden_layer_sizes=(9,)).fit(X, Y)


def test_assigned_weights_are_those_of_the_network():
    fitted = Regressor(**QUICK).fit(X, NUMBERS)
    fitted.coefs_[1] = np.zeros((8, 2))
    fitted.intercepts_[1][:] = [3, 4]
    assert (fitted.predict(X) == [3, 4]).all()
    assert (pickle.loads(pickle.dumps(fitted)).predict(X) == [3, 4]).all()
    fitted.coefs_[0] = np.zeros((8, 2))
    with pytest.raises(InputError, match=r"coefs_: expected shape \(4, 8\), got \(8, 2\)"):
        fitted.predict(X)


@pytest.mark.parametrize("arithmetic", ["native", "portable"])
def test_plain_arrays_are_predicted_without_scikit_learns_checks_whose_messages_remain(arithmetic, monkeypatch):
    fitted = Classifier(**QUICK, arithmetic=arithmetic).fit(X, Y)
    expected = fitted.predict_proba(X.tolist())
    for wrong, problem in (
        (np.where(X > 1, np.nan, X), "Input X contains NaN"),
        (np.where(X > 1, np.inf, X), "Input X contains infinity"),
        (X[:, :2], "X has 2 features, but Classifier is expecting 4 features as input"),
        (X[0], "Expected 2D array, got 1D array instead"),
        (X[:0], "Found array with 0 sample"),
    ):
        with pytest.raises(ValueError, match=problem):
            fitted.predict(wrong)
    monkeypatch.setattr(base, "validate_data", None)
    np.testing.assert_array_equal(fitted.predict_proba(X), expected)
    monkeypatch.undo()
    fitted.feature_names_in_ = np.array(["a", "b", "c", "d"], object)  # as after a DataFrame
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        fitted.predict(X)


def test_a_batch_size_larger_than_the_sample_size_warns_and_is_clipped():
    options = QUICK | {"max_iter": 2}
    with pytest.warns(UserWarning, match="Got `batch_size` larger than sample size") as warned:
        clipped = Classifier(**options | {"batch_size": len(X) + 1}).fit(X, Y)
    assert warned[0].filename == __file__
    assert parameters(clipped) == parameters(Classifier(**options | {"batch_size": len(X)}).fit(X, Y))


def test_a_file_of_an_estimator_holds_its_weights_once():
    fitted = Classifier((300, 300), max_iter=1, solver="sgd", momentum=0).fit(X, Y)
    assert len(pickle.dumps(fitted)) < 1.2 * fitted.network_.parameters.nbytes


@pytest.mark.parametrize("arithmetic", ["native", "portable"])
@pytest.mark.parametrize("kind", [csr_matrix, csc_matrix, csr_array, coo_array])
def test_sparse_rows_give_the_bits_of_dense_ones(kind, arithmetic):
    rows = np.where(np.random.default_rng(0).random((150, 30)) < 0.1, 1.25, 0.0)
    for estimator, y in ((Classifier, Y), (Regressor, NUMBERS)):
        fitted = [
            estimator(**QUICK, early_stopping=True, arithmetic=arithmetic).fit(each, y) for each in (rows, kind(rows))
        ]
        assert parameters(fitted[0]) == parameters(fitted[1])
        np.testing.assert_array_equal(fitted[0].validation_scores_, fitted[1].validation_scores_)
        np.testing.assert_allclose(fitted[0].predict(rows), fitted[0].predict(kind(rows)))


def test_duplicates_in_sparse_rows_are_added_and_the_rows_themselves_stay_as_they_were():
    rows = csr_matrix((np.array([1.0, 2.0, 4.0]), np.array([1, 1, 0]), np.array([0, 2, 3])), (2, 3))
    before = rows.data.copy()
    options = QUICK | {"arithmetic": "portable", "batch_size": 2}
    fitted = [Regressor(**options).fit(each, [1.0, 2.0]) for each in (rows, rows.toarray())]
    assert parameters(fitted[0]) == parameters(fitted[1])
    assert rows.data.tolist() == before.tolist()


def test_sparse_rows_are_never_dense_all_at_once(monkeypatch):
    rows = csr_matrix((np.ones(2000), (np.arange(2000), np.arange(2000) % 50)), (2000, 50))
    largest = []
    fill = SparseRows.fill
    monkeypatch.setattr(SparseRows, "fill", lambda own, which, out: (largest.append(len(which)), fill(own, which, out)))
    monkeypatch.setattr(type(rows), "toarray", lambda own: largest.append(own.shape[0]) or np.zeros(own.shape))
    monkeypatch.setattr("distnet.estimators.base.BLOCK_VALUES", 50 * 200)
    fitted = Regressor(**QUICK | {"batch_size": 100}, early_stopping=True).fit(rows, np.arange(2000.0))
    assert fitted.predict(rows).shape == (2000,)
    assert 0 < max(largest) <= 250


def test_class_weights_are_weights_of_samples():
    y = np.minimum(Y, 1)
    for class_weight in ("balanced", {0: 3.0, 1: 0.5}):
        by_class = Classifier(**QUICK, class_weight=class_weight).fit(X, y, sample_weight=WEIGHTS)
        weights = compute_sample_weight(class_weight, y) * WEIGHTS
        assert parameters(by_class) == parameters(Classifier(**QUICK).fit(X, y, sample_weight=weights))
        assert parameters(by_class) != parameters(Classifier(**QUICK).fit(X, y, sample_weight=WEIGHTS))
    with pytest.raises(InputError, match=r"^class_weight: expected finite numbers of 0 or more, got -1$"):
        Classifier(**QUICK, class_weight={0: -1}).fit(X, y)
    with pytest.raises(InputError, match=r'^class_weight: "balanced" needs all samples.*give a dict$'):
        Classifier(**QUICK, class_weight="balanced").partial_fit(X, y, classes=[0, 1])


def test_a_momentum_of_1_is_valid_as_in_scikit_learn():
    options = QUICK | {"solver": "sgd", "momentum": 1, "max_iter": 1, "learning_rate_init": 1e-4}
    for each in (Classifier(**options), MLPClassifier(**options)):
        assert each.fit(X, Y).n_iter_ == 1


def test_a_filter_of_scikit_learns_module_silences_the_warning_that_max_iter_is_reached():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Classifier(**QUICK).fit(X, Y)
        warnings.filterwarnings("ignore", category=ConvergenceWarning, module="sklearn")
        Classifier(**QUICK).fit(X, Y)
        Regressor(**QUICK).fit(X, NUMBERS)
    assert [(each.category, each.filename) for each in caught] == [(ConvergenceWarning, __file__)]


def test_a_validation_set_of_the_callers_own_ends_training_and_chooses_the_epoch():
    rows, y = X[::2], NUMBERS[::2]
    options = QUICK | {"max_iter": 40, "learning_rate_init": 0.05, "n_iter_no_change": 3, "batch_size": 10}
    fitted = Regressor(**options).fit(rows, y, validation_data=(X[1::2], NUMBERS[1::2]))
    assert len(fitted.validation_scores_) == fitted.n_iter_
    best = int(np.argmax(fitted.validation_scores_)) + 1
    assert 1 < best < fitted.n_iter_
    until = Regressor(**options | {"max_iter": best}).fit(rows, y)
    assert parameters(fitted) == parameters(until)
    assert fitted.best_validation_score_ == pytest.approx(fitted.score(X[1::2], NUMBERS[1::2]), rel=1e-6)
    with pytest.raises(ValueError, match=r"classes not in .*\['other'\]"):
        Classifier(**QUICK).fit(X, np.where(Y > 0, "one", "two"), validation_data=(X[:1], ["other"]))


@pytest.mark.parametrize(
    ("task", "other"), [("numbers", "number"), ("two classes", "labels"), ("labels", "two classes")]
)
def test_a_validation_set_with_other_columns_of_y_is_refused(task, other):
    make, _, y = TASKS[task]
    with pytest.raises(InputError, match=r"^validation_data: its y has shape .*; give both the same columns$"):
        make(**QUICK).fit(X, y, validation_data=(X, TASKS[other][2]))


def test_labels_other_than_0_and_1_are_refused_in_training_and_validation():
    for y, validation in ((LABELS * 2 - 1, LABELS), (LABELS, LABELS + 1)):
        with pytest.raises(InputError, match=r"^y: expected labels 0 and 1, got (-1|2)$"):
            Classifier(**QUICK).fit(X, y, validation_data=(X, validation))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_an_estimator_continues_with_the_task_that_it_has_learned_only(method):
    fitted = Classifier(**QUICK, warm_start=True).fit(X, Y)
    with pytest.raises(InputError, match=r"^y: it is of multilabel, and the fitted network of classification; "):
        getattr(fitted, method)(X, LABELS[:, :3])


def test_a_dict_of_class_weights_may_name_classes_that_a_partial_fit_lacks():
    rows = Y > 0
    options = QUICK | {"alpha": 0}
    by_class = Classifier(**options, class_weight={0: 5.0, 1: 3.0}).partial_fit(X[rows], Y[rows], classes=[0, 1, 2])
    weights = np.where(Y[rows] == 1, 3.0, 1.0)
    plain = Classifier(**options).partial_fit(X[rows], Y[rows], sample_weight=weights, classes=[0, 1, 2])
    assert parameters(by_class) == parameters(plain)


def test_early_stopping_that_holds_out_every_row_with_a_weight_is_refused():
    weights = np.zeros(len(X))
    weights[0] = 1
    with pytest.raises(InputError, match=r"^early_stopping: all rows with a weight are held out"):
        Classifier(**QUICK, early_stopping=True, validation_fraction=0.9).fit(X, Y, weights)


def test_assigned_weights_keep_the_dtype_of_the_network():
    fitted = Classifier(**QUICK).fit(X.astype(np.float32), Y)
    fitted.coefs_[0] = np.ones((4, 8), int)
    assert fitted.partial_fit(X.astype(np.float32), Y).coefs_[0].dtype == np.float32


def test_callbacks_see_each_epoch_and_may_end_training():
    epochs = []

    class Steps(Callback):
        count = 0

        def wants_steps(self):
            return True

        def after_step(self, trainer):
            self.count += 1
            return False

    steps = Steps()
    fitted = Classifier(**QUICK, callbacks=[epochs.append, steps, lambda epoch: epoch.number == 3]).fit(X, Y)
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert fitted.n_iter_ == 3
    assert steps.count == 15


def test_verbose_prints_the_lines_of_scikit_learn(capsys):
    options = QUICK | {"verbose": True, "early_stopping": True, "tol": 10.0, "n_iter_no_change": 1}
    lines = []
    for estimator in (Classifier, MLPClassifier):
        estimator(**options).fit(X, Y)
        lines.append([line.rpartition(" = ")[0] or line[:16] for line in capsys.readouterr().out.splitlines()])
    assert lines[0] == lines[1]
    assert lines[0][:2] == ["Iteration 1, loss", "Validation score"]


def test_without_shuffling_every_epoch_has_the_same_order():
    rows, options = X[:6], QUICK | {"batch_size": 2, "max_iter": 3}
    seeds = [Classifier(**options | {"random_state": seed}, shuffle=False, warm_start=True) for seed in (0, 1)]
    for each in seeds:
        each.coefs_, each.intercepts_ = [np.ones((4, 8)), np.ones((8, 1))], [np.zeros(8), np.zeros(1)]
        each.fit(rows, [0, 1] * 3)
    assert parameters(seeds[0]) == parameters(seeds[1])


def test_two_classes_are_one_sigmoid_with_smoothed_targets_in_the_middle():
    fitted = Classifier((), label_smoothing=0.2, max_iter=3000, tol=0, learning_rate_init=0.02, alpha=0)
    fitted.fit(np.array([[-1.0], [1.0]]), ["no", "yes"])
    assert fitted.coefs_[0].shape == (1, 1)
    np.testing.assert_allclose(fitted.predict_proba([[-1.0], [1.0]]), [[0.9, 0.1], [0.1, 0.9]], atol=1e-3)
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba([[1.0]])), fitted.predict_proba([[1.0]]))


@pytest.mark.parametrize(
    ("estimator", "told"),
    [
        (
            Classifier(solver="lbfgs"),
            "solver: distnet has no 'lbfgs'; use sklearn.neural_network.MLPClassifier(solver=\"lbfgs\")",
        ),
        (
            Regressor(solver="lbfgs"),
            "solver: distnet has no 'lbfgs'; use sklearn.neural_network.MLPRegressor(solver=\"lbfgs\")",
        ),
        (
            Regressor(loss="poisson"),
            "loss: distnet has no 'poisson'; use sklearn.neural_network.MLPRegressor(loss=\"poisson\")",
        ),
        (Regressor(loss="huber"), "loss: expected one of squared_error, got 'huber'"),
    ],
)
def test_what_is_not_built_is_one_line_that_names_scikit_learns_own(estimator, told):
    with pytest.raises(InputError) as refused:
        estimator.fit(X, Y)
    assert str(refused.value) == told


def test_smoothing_is_refused_for_labels_that_do_not_exclude_each_other():
    with pytest.raises(InputError, match=r"^label_smoothing: .*several labels per row; set it to 0$"):
        Classifier(**QUICK, label_smoothing=0.1).fit(X, LABELS)


def test_weights_and_repeated_rows_are_nearly_the_same_in_portable_arithmetic_too():
    counts = np.arange(len(X)) % 3
    options = QUICK | {"batch_size": "auto", "arithmetic": "portable", "max_iter": 20}
    for estimator, y in ((Classifier, Y), (Regressor, NUMBERS)):
        weighted = estimator(**options).fit(X, y, sample_weight=counts)
        repeated = estimator(**options).fit(np.repeat(X, counts, axis=0), np.repeat(y, counts, axis=0))
        np.testing.assert_allclose(weighted.coefs_[0], repeated.coefs_[0], atol=1e-4)


FITS = """
import hashlib, sys
sys.path.insert(0, "tests")
from test_estimator_claims import CASES, fit
for case in CASES:
    sys.stdout.write(f"{case} {hashlib.sha256(fit(*case)).hexdigest()}\\n")
"""
CASES = [
    (task, weighted, arithmetic, kind)
    for task in TASKS
    for weighted in (False, True)
    for arithmetic in ("native", "portable")
    for kind in (("fit",) if weighted or task != "two classes" else ("fit", "early", "partial", "sparse"))
]


def fit(task, weighted, arithmetic, kind):
    """The parameters after a fit of this kind, as bytes."""
    estimator, _, y = TASKS[task]
    options = QUICK | {"max_iter": 2, "arithmetic": arithmetic, "early_stopping": kind == "early"}
    model, weights = estimator(**options), WEIGHTS if weighted else None
    rows = csr_matrix(np.where(np.abs(X) > 1, X, 0)) if kind == "sparse" else X
    if kind == "partial":
        for part in (slice(0, 100), slice(40, 150)):
            classes = {} if estimator is Regressor else {"classes": np.unique(y)}
            model.partial_fit(rows[part], y[part], None if weights is None else weights[part], **classes)
        model = pickle.loads(pickle.dumps(model))
    else:
        model.fit(rows, y, sample_weight=weights)
    return parameters(model)


@cache
def fits(ranks):
    """What a program prints that does all fits on so many ranks."""
    command = [mpirun(), "-n", str(ranks), sys.executable, "-W", "ignore", "-c", FITS]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_task_weighted_or_not_has_the_same_bits_on_any_number_of_ranks(ranks):
    import hashlib

    alone = [f"{case} {hashlib.sha256(fit(*case)).hexdigest()}" for case in CASES]
    assert len(set(alone)) == len(alone)
    assert sorted(fits(ranks)) == sorted(alone * ranks)
