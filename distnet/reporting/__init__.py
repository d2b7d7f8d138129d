"""Reports of a run: console, metrics, TensorBoard, profile, pages."""
