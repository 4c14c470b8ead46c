"""The cache of huggingface_hub and other plain folders: reading, adopting, exporting."""
