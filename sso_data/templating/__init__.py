"""Chat templates, both ways: messages to token ids, and rows of others to messages."""
