"""What render_demos promises: the messages that the adapter in force really sends, whatever its make."""

from types import SimpleNamespace

import dspy
import pytest
from dspy import lm15
from dspy.utils.callback import BaseCallback
from dspy.utils.dummies import DummyLM
from dspy_icl import render_demos
from dspy_icl.rendering import pool_of
from dspy_programs import Classify

from icl_plugins.errors import SettingError

DEMOS = [dspy.Example(text="lost my phone", area="phone"), dspy.Example(text="which rate?", area="rate")]


class FutureAdapter(dspy.ChatAdapter):
    """Formats as dspy 3.5 announces it: the system apart, messages as objects."""

    def format(self, signature, demos, inputs):
        system, *messages = super().format(signature, demos, inputs)
        return SimpleNamespace(system=system["content"], messages=[as_object(m) for m in messages])


def as_object(message):
    make = lm15.Message.user if message["role"] == "user" else lm15.Message.assistant
    return make(message["content"])


class OwnFormat(dspy.ChatAdapter):
    """Overrides format alone, with a greeting in front and a reminder behind."""

    def format(self, signature, demos, inputs):
        turns = [("system", "Be brief."), ("user", "hello"), ("assistant", "hi")]
        for demo in demos:
            turns += [("user", f"Q {demo['text']}"), ("assistant", f"A {demo['area']}")]
        turns += [("user", f"Q {inputs.get('text')}"), ("user", "Now answer.")]
        return [{"role": role, "content": content} for role, content in turns]


class InTheSystem(dspy.ChatAdapter):
    def format(self, signature, demos, inputs):
        shown = "".join(f"{demo['text']} -> {demo['area']}\n" for demo in demos)
        return [{"role": "system", "content": shown}, {"role": "user", "content": str(inputs)}]


@pytest.mark.parametrize(
    "adapter",
    [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter(), dspy.TwoStepAdapter(DummyLM([]))],
    ids=lambda adapter: type(adapter).__name__,
)
def test_every_adapter_of_dspy_is_rendered_as_it_formats_demonstrations(adapter):
    with dspy.context(adapter=adapter):
        turns = [{"role": role, "content": text} for role, text in render_demos(Classify, DEMOS)]
    assert turns == adapter.format_demos(Classify, DEMOS)
    assert turns == adapter.format(Classify, DEMOS, {"text": "what else?"})[1:-1]


def test_the_messages_of_dspy_3_5_are_read_as_the_dicts_of_3_4():
    today = render_demos(Classify, DEMOS)
    with dspy.context(adapter=FutureAdapter()):
        assert render_demos(Classify, DEMOS) == today


def test_an_adapter_with_its_own_format_is_rendered_as_it_is():
    with dspy.context(adapter=OwnFormat()):
        assert render_demos(Classify, DEMOS) == [
            ("user", "Q lost my phone"),
            ("assistant", "A phone"),
            ("user", "Q which rate?"),
            ("assistant", "A rate"),
        ]


def test_an_adapter_that_hides_demonstrations_in_the_system_message_is_refused_by_name():
    with dspy.context(adapter=InTheSystem()), pytest.raises(SettingError, match="InTheSystem"):
        render_demos(Classify, DEMOS)


class OtherQuery(OwnFormat):
    """Words the query by the number of demonstrations, so that nobody can tell which messages are theirs."""

    def format(self, signature, demos, inputs):
        *turns, last = super().format(signature, demos, inputs)
        return [*turns, {**last, "content": f"Answer as in the {len(demos)} examples."}]


def test_an_adapter_whose_demonstrations_cannot_be_told_from_the_rest_is_refused():
    with dspy.context(adapter=OtherQuery()), pytest.raises(SettingError, match="OtherQuery"):
        render_demos(Classify, DEMOS)


def test_no_demonstrations_are_no_messages():
    assert render_demos(Classify, []) == []


def test_what_is_no_text_is_named_by_its_type():
    signature = dspy.Signature("picture: dspy.Image -> area", custom_types={"dspy.Image": dspy.Image})
    demo = dspy.Example(picture=dspy.Image("https://example.org/cat.png"), area="cat")
    ((_, asked), _) = render_demos(signature, [demo])
    assert "[image_url]" in asked


def test_rendering_tells_callbacks_nothing():
    class Listener(BaseCallback):
        heard = 0

        def on_adapter_format_start(self, call_id, instance, inputs):
            self.heard += 1

    with dspy.context(callbacks=[Listener()]) as _:
        (listener,) = dspy.settings.callbacks
        render_demos(Classify, DEMOS)
    assert listener.heard == 0


def test_demonstrations_after_json_are_mappings_and_render_the_same():
    assert render_demos(Classify, [demo.toDict() for demo in DEMOS]) == render_demos(Classify, DEMOS)
    assert pool_of(Classify, [demo.toDict() for demo in DEMOS]).texts == pool_of(Classify, DEMOS).texts
