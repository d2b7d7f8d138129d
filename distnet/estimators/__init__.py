"""Networks as scikit-learn estimators: `Classifier` and `Regressor`."""
