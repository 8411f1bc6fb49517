"""Models: an encoder, a prior and a decoder put together; built by name from a config."""
