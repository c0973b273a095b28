"""DeepThinkingLLM: a local text model that goes on behind a state."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from icl_plugins.errors import SettingError
from langchain_icl.state_model import StateModel

_THREADS = 64


class DeepThinkingLLM(StateModel, BaseLLM):
    r"""Goes on with a text behind a KVState of layout "single", of which only the text is read.

    The text is the question as rendered, ``"Query: my card has not arrived\nIntent:"``; one that begins with
    the state's prompt, as that of ``as_string_prompt(prompt)``, is not given it again. Arguments, threads,
    copies and errors: see ChatDeepThinking. Raises SettingError for a state of a chat layout too.
    """

    @property
    def _llm_type(self) -> str:
        return "deep-thinking-text"

    def _check(self) -> None:
        if self.state.layout != "single":
            raise SettingError(
                f"a state of layout {self.state.layout!r} for a text model",
                expected="a state of layout 'single', in which the prompt is one text",
                fix="use ChatDeepThinking, or make the state with layout='single'",
            )
        super()._check()

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        with ThreadPoolExecutor(min(len(prompts), _THREADS) or 1) as threads:  # the state's server joins them
            answers = list(threads.map(lambda text: self._answer(_message(text), stop, kwargs), prompts))
        read, written = (
            sum(one.prompt_tokens for one in answers),
            sum(one.completion_tokens for one in answers),
        )
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return LLMResult(
            generations=[[Generation(text=one.text, generation_info=self._told(one))] for one in answers],
            llm_output={"model_name": self.model, "token_usage": usage},
        )

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        for piece, written in self._pieces(_message(prompt), stop, kwargs):
            chunk = GenerationChunk(text=piece, generation_info=self._told(written) if written else None)
            if run_manager:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk


def _message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
