#!/usr/bin/env python3
"""Makes tests/fixtures/templates/expected.json: what Jinja renders from the templates beside it.

    pip install jinja2            (3.1.6 made what is committed)
    python3 tests/reference/make_chats.py [TEMPLATE.jinja ...]

The templates there are written from the rules of the models' own (formats/chat_template.h); with
arguments, another template file is rendered instead and the result goes to standard output.
"""
import json
import pathlib
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "templates"

TOOLS = """[ {"type":"function", "function": {"name": "get_weather", "description": "Wetter \\u00fcber\\u4eca \\ud83c\\udfb5 a\\/b \\"q\\" \\u0022\\u005c\\u0007\\n",
  "parameters": {"type": "object","properties":{"city":{"type":"string"},"days":{"type":"integer","minimum":1,
  "maximum": 14.0, "step": 0.5, "x": [1e5, 1E-7, 123456789012345678, 1.5e+300, -0, -0.0, 0.1, 1e16, 12345.678e3, true, null, [], {}, 2.5e-5]}},
  "required":["city"]}}} ,{"name":"b"}, [1 , 2], "s" ]"""


def m(role, content, reasoning=None):
    message = {"role": role, "content": content}
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    return message


CHATS = [
    [m("user", "Hi")],
    [m("system", "You are brief."), m("user", "Hi")],
    [m("system", ""), m("user", ""), m("assistant", "")],
    [m("system", "S"), m("system", "S2"), m("user", "U"), m("system", "S3"), m("assistant", "A")],
    [m("user", "1+1?"), m("assistant", "2", "one and one"), m("user", "2+2?"), m("assistant", "4", "two and two")],
    [m("user", "1+1?"), m("assistant", "<think>\n\none and one\n\n</think>\n\n2"), m("user", "and 2+2?")],
    [m("user", "1+1?"), m("assistant", "<think>\n\none\n</think>\n\n\n2\n")],
    [m("user", "q"), m("assistant", "no open</think>a</think>\n\nb")],
    [m("user", "q"), m("assistant", "x<think>y<think>z\n</think>")],
    [m("user", "q"), m("assistant", "<think></think>\nempty")],
    [m("user", "q"), m("assistant", "\n\ncontent", "\n\nreason\n\n")],
    [m("user", "q"), m("assistant", "<think>in content</think>c", "given")],
    [m("user", "q"), m("assistant", "<think>kept</think>c", "")],
    [m("user", "weather?"), m("assistant", "<tool_call>\n{\"name\": \"w\", \"arguments\": {}}\n</tool_call>", "need it"),
     m("tool", "sunny"), m("tool", "warm\n"), m("assistant", "Sunny.", "ok"), m("user", "thanks"), m("tool", "late")],
    [m("tool", "first"), m("user", "u")],
    [m("user", "q"), m("assistant", "a", "r"), m("user", "<tool_response>\nx\n</tool_response>"), m("assistant", "b", "s")],
    [m("user", "<tool_response>"), m("assistant", "b", "s"), m("user", "</tool_response>"), m("assistant", "c", "t")],
    [m("assistant", "alone", "r"), m("assistant", "again", "s")],
    [m("system", "主题 é \U0001f3b5"), m("user", "<role>HUMAN</role> {{ x }} {% y %}\t\r\n"), m("assistant", "ok")],
]


def environment():
    result = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    # as transformers does: no HTML escapes
    result.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    return result


def render(path):
    template = environment().from_string(pathlib.Path(path).read_text(encoding="utf-8"))
    plain = not pathlib.Path(path).name.startswith("ling")
    out = []
    for chat, messages in enumerate(CHATS):
        for tools in (None, TOOLS, "[]"):
            for thinking in (False, True):
                for prompt in (False, True):
                    if (tools and (plain or len(messages) > 2)) or (chat > 3 and (thinking or not prompt)):
                        continue
                    text = template.render(messages=messages, tools=json.loads(tools) if tools else None,
                                           enable_thinking=thinking, add_generation_prompt=prompt)
                    out.append({"template": pathlib.Path(path).name, "chat": chat, "tools": tools,
                                "thinking": thinking, "prompt": prompt, "text": text})
    return out


def main():
    paths = sys.argv[1:] or sorted(HERE.glob("*.jinja"))
    cases = [case for path in paths for case in render(path)]
    lines = [",\n".join(json.dumps(c, separators=(",", ":")) for c in part) for part in (CHATS, cases)]
    text = '{"chats": [\n%s\n],\n"cases": [\n%s\n]}\n' % tuple(lines)
    if sys.argv[1:]:
        sys.stdout.write(text)
    else:
        (HERE / "expected.json").write_text(text, encoding="utf-8")
        print(f"{len(cases)} texts from {len(paths)} templates")


if __name__ == "__main__":
    main()
