"""ChatDeepThinking: a local chat model that answers behind a state, as LangChain's other chat models do."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from icl_plugins.errors import SettingError
from langchain_icl.asking import as_dicts, behind
from langchain_icl.state_model import StateModel

if TYPE_CHECKING:
    from icl_plugins.thinking.serving import Written

_NO_LIMIT = -(2**40)


class ChatDeepThinking(StateModel, BaseChatModel):
    r"""Answers messages behind a KVState, of which only what is new is read.

    state: a KVState, or the folder that one was saved in; model: its model, by default the one it was made
    with. Messages stand behind the state's prompt: in layout "single" as the text that goes on, so that
    ``ChatPromptTemplate([("human", "Query: {text}\nIntent:")]) | ChatDeepThinking(state)`` asks as the
    demonstrations do. Messages that begin with the prompt, as those of ``as_chat_prompt(prompt)``, are not
    given it again.

    temperature: None or 0 takes the likeliest token at every step; above, tokens are drawn with ``seed``, so
    that one question has one answer. stop: texts at which answers end; None is the template's separator in
    layout "single", and those of a call stand in their place. model_kwargs: other options of transformers'
    generate (icl_plugins.thinking.options). All of them, and max_tokens, may be given with a call.
    timeout, max_retries and api_key are taken as by all chat models; here is no network that needs them.

    Any number of threads may ask: what waits is written together, and streams one by one. Copies share the
    state; pickles need one that was loaded from a folder. Models in memory are not loaded again. Raises
    SettingError for settings that cannot be, ArtefactError for a damaged folder, ProxyError for a model that
    cannot be loaded by its name; a call raises DataError for messages that are no text and, in chat layouts,
    for system messages that are not the prompt's, TooLongError where they and max_tokens do not fit.
    """

    streaming: bool = False

    @property
    def _llm_type(self) -> str:
        return "deep-thinking-chat"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        written = self._answer(as_dicts(messages), stop, kwargs)
        message = AIMessage(
            written.text, usage_metadata=_usage(written), response_metadata=self._told(written)
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for piece, written in self._pieces(as_dicts(messages), stop, kwargs):
            message = AIMessageChunk(content=piece)
            if written is not None:
                message = AIMessageChunk(
                    content="",
                    usage_metadata=_usage(written),
                    response_metadata=self._told(written),
                    chunk_position="last",
                )
            chunk = ChatGenerationChunk(message=message)
            if run_manager:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return how many tokens the model is given, the state's among them: an answer's input_tokens.

        Raises DataError for messages that cannot be asked, SettingError for tools.
        """
        if tools:
            raise SettingError("tools", expected="messages alone", fix="leave tools out: none are called")
        if not messages:
            return len(self.state.ids)
        sent = behind(self.state.prompt, self.state.layout, as_dicts(messages))
        return len(self._serving().tokens(sent, _NO_LIMIT))  # what is too long is to be counted too


def _usage(written: "Written") -> UsageMetadata:
    return UsageMetadata(
        input_tokens=written.prompt_tokens,
        output_tokens=written.completion_tokens,
        total_tokens=written.prompt_tokens + written.completion_tokens,
        input_token_details=InputTokenDetails(cache_read=written.cached_tokens),
    )
