"""`push`: a run or a model to the Hub in one commit with its card, and read back."""
