"""Which features a prompt gets, and the texts that ask for their good and bad side."""
