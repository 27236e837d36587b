"""Conversations: messages in, token ids to the model, and its tokens back to answers.

    messages ─> messages.py ─> render.py ─> ids ─> the engine draws tokens
    tools ────> tools.py ────────┘                        │
    ChatText <─ conversation.py <─ reader.py <────────────┘
                                     ├ calls.py, values.py   tool calls and their arguments
                                     └ thought.py, loops.py  when a thought has to end

A template of the user's own may render instead (custom.py), never unless asked for.

Read render.py first: it is the chat format. Then reader.py and calls.py, which undo it, and
conversation.py, which puts the loop together. methods.py has what users call; openai.py gives it
OpenAI's shapes; run_tools.py runs Python functions.

The ids are those of the official template, tokenized as one string, but for these differences:

- Text of messages, tools and files is never a control token: "<|im_end|>" stays text, also in what
  an assistant said. Only the thought at the head of an assistant's content is told apart, and calls
  belong into `tool_calls`.
- The role "developer" is "system"; OpenAI's part types `input_text`, `input_image` and `video_url`
  are read like Qwen's own.
- Arguments of a tool call may be a JSON string, as OpenAI's clients send them; the template renders
  such a string character by character, or fails. None and "" are no arguments.
- A tool given as a bare function schema is wrapped in {"type": "function", "function": ...}.
- Halves of surrogate pairs are joined to their character, single ones become U+FFFD: the template's
  tokenizer fails on them.
- A picture part without a picture is an error, and so are a text part whose text and a
  `reasoning_content` that are no strings.
- The result of a tool at the very beginning has the head of its user turn: the template omits it.
- A thought at the head of an assistant's content is looked for in text only, not among pictures.

The public names are those of qwen35cpp itself. Nothing is imported here, so that who does not chat
does not wait for it.
"""
