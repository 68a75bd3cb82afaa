"""The official Python package against our API: `sdk.py BASE_URL MODEL`. Ends with an error at the first thing that differs."""

import sys

import openai
from pydantic import BaseModel

base, model = sys.argv[1:3]
client = openai.OpenAI(base_url=base, api_key="any", max_retries=0)
ask = [{"role": "user", "content": "Say hi"}]


def refused(kind, code, call):
    try:
        call()
    except kind as error:
        assert error.code == code, (error.code, code)
        return
    raise AssertionError(f"{code} was not refused")


answer = client.chat.completions.create(model=model, messages=ask, max_tokens=8, temperature=0)
assert answer.choices[0].message.content and answer.usage.completion_tokens <= 8 and answer._request_id

chunks = list(client.chat.completions.create(model=model, messages=ask, max_tokens=8, temperature=0, stream=True,
                                             stream_options={"include_usage": True}))
text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
assert text == answer.choices[0].message.content, (text, answer.choices[0].message.content)
assert chunks[-1].usage.total_tokens == answer.usage.total_tokens

raw = client.chat.completions.with_raw_response.create(model=model, messages=ask, max_tokens=1)
assert (raw.headers["x-talkoo-provider"], raw.headers["x-talkoo-local"]) == ("self", "true"), raw.headers
same = client.chat.completions.create(model=model, messages=ask, temperature=0, extra_body={"n_predict": 8, "mirostat": 0})
assert same.choices[0].message.content == answer.choices[0].message.content

two = client.chat.completions.create(model=model, messages=ask, max_tokens=8, n=2, seed=1, logprobs=True, top_logprobs=2)
assert len(two.choices) == 2 and len(two.choices[0].logprobs.content[0].top_logprobs) == 2
again = client.chat.completions.create(model=model, messages=ask, max_tokens=8, n=2, seed=1)
assert [c.message.content for c in two.choices] == [c.message.content for c in again.choices], "the same seed"

assert client.models.retrieve(model).id in [m.id for m in client.models.list()]


class Person(BaseModel):
    name: str
    age: int


person = client.chat.completions.parse(model=model, messages=[{"role": "user", "content": "A person as JSON"}],
                                       response_format=Person, max_tokens=80, temperature=0)
assert person.choices[0].message.parsed.name

tools = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}}}]
called = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "The weather in Oslo?"}], tools=tools,
                                        tool_choice="required", max_tokens=80, temperature=0)
assert called.choices[0].finish_reason == "tool_calls" and called.choices[0].message.tool_calls[0].function.name == "weather"

# What is drawn may end before eight tokens: nothing is drawn here, and the answer is a long one.
response = client.responses.create(model=model, input="Write a poem about the sea.", max_output_tokens=8, temperature=0)
assert response.output_text and response.status == "incomplete", response
with client.responses.stream(model=model, input="Say hi", max_output_tokens=64, temperature=0) as stream:
    for _ in stream:
        pass
    assert stream.get_final_response().output_text

scored = client.completions.create(model=model, prompt="The sky is blue", max_tokens=0, echo=True, logprobs=1)
assert scored.choices[0].text == "The sky is blue" and scored.choices[0].logprobs.token_logprobs[0] is None

refused(openai.NotFoundError, "model_not_found", lambda: client.chat.completions.create(model="none", messages=ask))
refused(openai.BadRequestError, "invalid_value", lambda: client.chat.completions.create(model=model, messages=[]))
refused(openai.BadRequestError, "unsupported_parameter",
        lambda: client.chat.completions.create(model=model, messages=ask, extra_body={"ignore_eos": True}))
refused(openai.BadRequestError, "context_length_exceeded",
        lambda: client.chat.completions.create(model=model, messages=[{"role": "user", "content": "word " * 20_000}]))
refused(openai.BadRequestError, "unsupported_parameter", lambda: client.embeddings.create(model=model, input="x"))
print("openai (python): all as expected")
