"""`push`: a run or a model on the Hub, and read back."""
