"""`report` and `view`: what a run holds as a page: accounting, checks, histograms and every row."""
