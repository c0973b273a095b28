"""icl_plugins for OpenAI-compatible APIs: what a prompt's chat messages take of a target, and what they cost.

The messages themselves, `ManyShotPrompt.messages(fields, layout)`, are plain lists and go straight into
`client.chat.completions.create(messages=...)` and `client.responses.create(input=...)` of any client version.
Nothing here talks to a network or imports a client.
"""

from openai_icl.budget import ChatTokens
from openai_icl.cost import PromptCount, count_prompt
from openai_icl.known_model import KnownModel

__all__ = ["ChatTokens", "KnownModel", "PromptCount", "count_prompt"]
