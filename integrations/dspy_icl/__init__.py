"""icl_plugins in DSPy."""
