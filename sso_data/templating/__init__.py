"""Chat templates: the three views of a prompt as token ids, and rows of other tools."""
