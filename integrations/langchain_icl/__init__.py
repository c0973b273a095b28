"""icl_plugins in LangChain."""
