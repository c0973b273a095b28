"""icl_plugins in OpenAI."""
