"""The Hugging Face Hub, and servers that speak its protocol: ``source.HubSource``. huggingface_hub stops here."""
