"""Conversations to prompts: a checkpoint's chat template, rendered in the sandbox, encoded under the trust rules."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, TemplateError
from ..types import Message
from ..values import frozen
from .messages import normalize_messages, normalize_tools, parse_arguments, thinking_requested
from .meter import SECONDS, Meter, Overrun
from .tokenizer import Tokenizer, read_json
from .trust import Controls, Marks, collect_strings, encode_marked

if TYPE_CHECKING:
    from .sandbox import Sandbox

__all__ = ["ChatTemplate", "ends_in_thinking", "thinking_requested"]

Messages = Sequence[Message | Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]] | None

MAX_SOURCE = 64 << 10  # characters of a template; released ones have 4,000 to 16,000
_TOKEN_VARIABLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@frozen
class _Rendered:
    """A rendered prompt in which untrusted text is still marked."""

    text: str
    marks: Marks | None


class ChatTemplate:
    """One checkpoint's chat template. Safe to share between threads; compiled when first needed.

    ``sources`` maps names (``default``, ``tool_use``) to ``(text, file)``; with tools, ``tool_use`` is used where there
    is one. ``seconds`` bounds one rendering.
    """

    def __init__(
        self,
        sources: Mapping[str, tuple[str, Path]],
        variables: Mapping[str, str] | None = None,
        folder: Path | str = "",
        seconds: float = SECONDS,
    ) -> None:
        self._sources = dict(sources)
        self._variables = dict(variables or {})
        self._folder = Path(folder)
        self._seconds = seconds
        self._programs: dict[str, _Program] = {}
        self._controls: tuple[Tokenizer, Controls] | None = None
        self._lock = threading.Lock()

    @classmethod
    def from_folder(cls, folder: Path | str) -> ChatTemplate:
        """Reads ``chat_template.jinja`` (and ``additional_chat_templates/*.jinja``), else ``chat_template`` in
        ``tokenizer_config.json``: one template or a list of named ones. A folder without any gives a template that
        refuses to render. Raises CheckpointError for files that cannot be read.
        """
        folder = Path(folder)
        config_path = folder / "tokenizer_config.json"
        config = read_json(config_path) or {}
        sources = _files(folder) or _configured(config.get("chat_template"), config_path)
        variables = {}
        for key in _TOKEN_VARIABLES:
            value = config.get(key)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                variables[key] = value
        return cls(sources, variables, folder)

    def render(self, messages: Messages, *, tools: Tools = None, thinking: bool = True) -> str:
        """The prompt for the assistant's next turn. Raises InvalidRequest with the path of what is wrong with
        ``messages`` or ``tools``, TemplateError if the template refuses them, is broken or runs too long.
        """
        rendered = self._render(messages, tools, thinking, _QWEN_CONTROLS)
        return rendered.marks.unmark(rendered.text) if rendered.marks else rendered.text

    def encode(
        self, messages: Messages, *, tools: Tools = None, thinking: bool = True, tokenizer: Tokenizer
    ) -> list[int]:
        """Token ids of that prompt. Names of control tokens in user messages, tool results and tool schemas are plain
        text; a user message that is a ``<tool_response>…</tool_response>`` wrapper keeps its outer tags.
        """
        rendered = self._render(messages, tools, thinking, self._controls_of(tokenizer))
        return encode_marked(rendered.text, rendered.marks, tokenizer)

    @cached_property
    def hybrid(self) -> bool:
        """Can the template switch thinking on and off? (It asks for ``enable_thinking``.)"""
        return any("enable_thinking" in text for text, _ in self._sources.values())

    def _render(self, messages: Messages, tools: Tools, thinking: bool, controls: Controls) -> _Rendered:
        conversation = normalize_messages(messages)
        schemas = normalize_tools(tools)
        program = self._program("tool_use" if schemas and "tool_use" in self._sources else "default")
        if program.parses_arguments:
            parse_arguments(conversation)
        texts: list[str] = []
        collect_strings(schemas, texts)
        collect_strings([m for m in conversation if m["role"] in ("user", "tool")], texts)
        marks = None
        suspicious = any(map(controls.could_begin, texts))
        collect_strings([m for m in conversation if m["role"] not in ("user", "tool")], texts)
        if suspicious:
            marks = Marks(controls, [program.source, *texts])
            conversation = list(map(marks.message, conversation))
            schemas = marks.mark(schemas)
        variables = {
            **self._variables,
            "messages": conversation,
            "tools": schemas or None,
            "documents": None,
            "add_generation_prompt": True,
            "enable_thinking": thinking,
        }
        return _Rendered(program.run(variables, marks, sum(map(len, texts))), marks)

    def _program(self, name: str) -> _Program:
        with self._lock:
            program = self._programs.get(name)
            if program is None:
                if name not in self._sources:
                    raise TemplateError(self._no_template(name), param="messages")
                source, path = self._sources[name]
                program = self._programs[name] = _Program(source, path, self._seconds)
            return program

    def _no_template(self, name: str) -> str:
        if self._sources:
            return f"{self._folder}: no chat template called {name!r} among {', '.join(self._sources)}"
        return (
            f"{self._folder}: this checkpoint has no chat template (a base model?): give it a plain prompt to continue"
            " (--raw), or put a chat_template.jinja beside its tokenizer"
        )

    def _controls_of(self, tokenizer: Tokenizer) -> Controls:
        known = self._controls
        if known is None or known[0] is not tokenizer:
            known = self._controls = (tokenizer, Controls(tokenizer.added.values()))
        return known[1]


def ends_in_thinking(ids: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Does a prompt end inside an open ``<think>`` block? Looks at the control tokens of its last turn."""
    control = tokenizer.control
    for token in reversed(ids):
        if token == control.think_open:
            return True
        if token in (control.think_close, control.im_start, control.im_end):
            return False
    return False


class _Program:
    """A compiled template."""

    def __init__(self, source: str, path: Path, seconds: float) -> None:
        from jinja2.exceptions import TemplateSyntaxError

        from .compiled import compiled
        from .sandbox import Sandbox

        self.source = source
        self.path = path
        self._seconds = seconds
        self._lock = threading.Lock()
        self._env: Sandbox = Sandbox()
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"{path}: a chat template of {len(source):,} characters is too long", param="messages")
        self._env.meter = Meter(seconds=seconds)
        try:
            code = compiled(source, self._compile)
            self._template = self._env.template_class.from_code(self._env, code, self._env.make_globals(None))
        except TemplateSyntaxError as error:
            raise self._error(f"is broken: {error.message}", error.lineno) from None
        except (Exception, Overrun) as error:
            raise self._error(f"cannot be compiled: {_reason(error)}") from None
        # Templates that walk a call's arguments as a mapping and do not ask whether they are text (Qwen3-Coder's).
        self.parses_arguments = bool(_WALKS_ARGUMENTS.search(source)) and not _ASKS_FOR_TEXT.search(source)

    def _compile(self) -> CodeType:
        # Under one name for all, so that the code does not depend on where a checkpoint lies.
        return self._env.compile(self._env.parse_bounded(self.source), filename=_CODE)

    def run(self, variables: dict[str, Any], marks: Marks | None, characters: int) -> str:
        from jinja2.exceptions import TemplateError as Refusal

        with self._lock:  # the meter belongs to one rendering
            self._env.meter = Meter(characters, self._seconds)
            self._env.marks = marks.stand_ins if marks else ""
            try:
                return self._template.render(variables)
            except Refusal as error:
                refused = type(error) is Refusal  # what raise_exception raises
                what = "refused the conversation" if refused else "failed"
                raise self._error(f"{what}: {_reason(error)}", self._line(error)) from None
            except (Exception, Overrun) as error:
                line = self._line(error)
                if isinstance(error, Overrun):  # Jinja does not translate its traceback
                    line = line and self._template.get_corresponding_lineno(line)
                    raise self._error(f"was stopped: {error}", line) from None
                raise self._error(f"failed: {_reason(error)}", line) from None

    def _line(self, error: BaseException) -> int | None:
        """The template's line that failed: Jinja gives its frames the name under which it was compiled."""
        line, step = None, error.__traceback__
        while step is not None:
            if step.tb_frame.f_code.co_filename == _CODE:
                line = step.tb_lineno
            step = step.tb_next
        return line

    def _error(self, what: str, line: int | None = None) -> TemplateError:
        where = f"{self.path}, line {line}" if line else f"{self.path}"
        return TemplateError(f"{where}: the chat template {what}", param="messages")


_CODE = "<chat template>"
_QWEN_CONTROLS = Controls()
_WALKS_ARGUMENTS = re.compile(r"arguments\s*(\|\s*items\b|\.\s*items\s*\()")
_ASKS_FOR_TEXT = re.compile(r"arguments\s+is\s+(not\s+)?(string|mapping)")


def _reason(error: BaseException) -> str:
    """One line, of bounded length."""
    if isinstance(error, RecursionError):
        return "it is nested, or calls itself, too deeply"
    if isinstance(error, MemoryError):
        return "it ran out of memory"
    return " ".join(str(error).split())[:300] or type(error).__name__


def _files(folder: Path) -> dict[str, tuple[str, Path]]:
    paths = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    main = folder / "chat_template.jinja"
    if main.is_file():
        paths["default"] = main
    out = {}
    for name, path in paths.items():
        try:
            out[name] = (path.read_text(encoding="utf-8"), path)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot be read ({error})", path) from None
    return out


def _configured(value: Any, path: Path) -> dict[str, tuple[str, Path]]:
    """Templates of tokenizer_config.json: a string, or a list of ``{name, template}``."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": (value, path)}
    out = {}
    for item in value if isinstance(value, list) else [None]:
        if not (isinstance(item, dict) and isinstance(item.get("name"), str) and isinstance(item.get("template"), str)):
            raise CheckpointError("chat_template must be text or a list of objects with name and template", path)
        out[item["name"]] = (item["template"], path)
    return out
