"""Pure functions on tensors: no model, no tokenizer, no path, no progress bar."""
