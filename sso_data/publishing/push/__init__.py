"""`push`: a run's pairs and rows to a dataset repository, a trained model to a model repository."""
