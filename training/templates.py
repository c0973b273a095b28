"""How micro's training tasks are written: what stands in front of a text, of a name, and between examples."""

PREFIXES = ("", "Text:", "Query:", "Input:", "Review:", "Question:", "Q:", "Sentence:", "Message:", "User:")
CUES = ("\nLabel:", "\nAnswer:", "\nTopic:", "\nType:", "\nIntent:", "\nSentiment:", "\nCategory:",
        "\nClass:", "\nOutput:", "\nA:")  # fmt: skip
SEPARATORS = ("\n\n", "\n", "</s>\n")
