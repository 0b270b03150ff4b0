"""The engine: requests of token ids -> scheduler, passes of the model, sampler -> events, and text for their
readers."""
