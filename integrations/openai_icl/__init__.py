"""icl_plugins for OpenAI-compatible APIs: a model that answers, what a prompt takes of it, and what it costs.

The messages themselves, `ManyShotPrompt.messages(fields, layout)`, are plain lists and go straight into
`client.chat.completions.create(messages=...)` and `client.responses.create(input=...)` of any client version.
The client is imported, and the network asked, by `ChatTarget.generate` only.
"""

from openai_icl.budget import ChatTokens
from openai_icl.cost import PromptCount, count_prompt
from openai_icl.known_model import KnownModel
from openai_icl.target import ChatTarget

__all__ = ["ChatTarget", "ChatTokens", "KnownModel", "PromptCount", "count_prompt"]
