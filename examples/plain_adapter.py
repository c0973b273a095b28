"""PlainAdapter: a DSPy adapter for small models, which continue a pattern rather than follow a format."""

from typing import Any

import dspy
from dspy.adapters.utils import parse_value
from dspy.utils.exceptions import AdapterParseError


class PlainAdapter(dspy.Adapter):  # type: ignore[misc]  # dspy has no types
    """Render every field as "name: value" and let the model write what follows the last output's name.

    Query and demonstrations look the same, and nothing but them and the instruction is in the prompt; with
    several outputs, the model writes the names of the second and later ones itself, one a line.
    """

    def format_system_message(self, signature: Any) -> str:
        """Return the instruction and nothing else."""
        return str(signature.instructions)

    def format_user_message_content(
        self,
        signature: Any,
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> str:
        """Return the inputs, a line each, and the name of the first output."""
        lines = [f"{name}: {inputs[name]}" for name in signature.input_fields if name in inputs]
        return "\n".join([*lines, f"{next(iter(signature.output_fields))}:"])

    def format_assistant_message_content(
        self, signature: Any, outputs: dict[str, Any], missing_field_message: str | None = None
    ) -> str:
        """Return the outputs, the first without its name."""
        first, *others = signature.output_fields
        lines = [f"{name}: {outputs.get(name, missing_field_message)}" for name in others]
        return "\n".join([str(outputs.get(first, missing_field_message)), *lines])

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Return the outputs in their types; raises AdapterParseError for what is none."""
        lines = completion.strip().splitlines() or [""]
        written = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        written[next(iter(signature.output_fields))] = lines[0]
        try:
            return {
                name: parse_value(written[name].strip(), field.annotation)
                for name, field in signature.output_fields.items()
            }
        except (KeyError, ValueError) as error:
            raise AdapterParseError(
                adapter_name="PlainAdapter", signature=signature, lm_response=completion, message=str(error)
            ) from error
