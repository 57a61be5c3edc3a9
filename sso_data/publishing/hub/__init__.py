"""The Hub, to write to and to read runs from: the one home of huggingface_hub's write API."""
